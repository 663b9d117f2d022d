"""One step of each family that people name: drawn, trained, exported, served, and the same tokens all the way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pmd.services.common.artifacts import dump_messages, seal_weights
from pmd.services.common.options import TrainSettings
from pmd.services.common.requests import TrainRequest
from pmd.services.common.wire import Message, Policy, Ref, Sampling
from pmd.services.rollout.completion import Row
from pmd.services.rollout.engines.transformers.engine import TransformersEngine
from pmd.services.rollout.settings import RolloutSettings
from pmd.services.trainer.export import export
from pmd.services.trainer.training.batch import assemble
from pmd.services.trainer.training.engine import Engine
from pmd.services.trainer.training.model import load_model
from pmd.services.trainer.training.teacher import Teacher
from pmd.services.trainer.training.update import Stopwatch, Updater
from tests.models.families import FAMILIES, WINDOW, make_folder

QUESTIONS = ("What is two and two?", "Name a colour, please.\tNow!", "naïve 中 7")
SETTINGS = TrainSettings(loss="distill", lr=3e-3, micro_tokens=400)


def greedy(model: torch.nn.Module, prompt: tuple[int, ...], ends: frozenset[int], most: int) -> list[int]:
    """The likeliest tokens by plain forward passes, without cache, padding or neighbours."""
    ids = list(prompt)
    for _ in range(most):
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        if ids[-1] in ends:
            break
    return ids[len(prompt) :]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_of_each_family_from_rollout_to_export(family: str, tmp_path: Path, device: torch.device) -> None:
    folder = make_folder(family, tmp_path / "v0000")
    base = seal_weights(folder, 0, {"run": "r"})
    served = TransformersEngine(RolloutSettings(token="test-token-0123456789", rollout_device="cpu"))  # type: ignore[arg-type]
    policy = Policy(run="r", weights=base)
    conversations = [[Message(role="user", content=question)] for question in QUESTIONS]
    prompts, window = served.render(policy, conversations)
    assert window == WINDOW
    rows = [Row(prompt, 5, 10 * i + sample) for i, prompt in enumerate(prompts) for sample in range(3)]
    drawn = served.generate(policy, rows, Sampling(temperature=1.0, max_tokens=12), lambda: None)

    rollouts, verdicts, contexts = [], [], []
    for n, (row, one) in enumerate(zip(rows, drawn, strict=True)):
        problem, sample = divmod(n, 3)
        name = {"rollout_id": f"p{problem}#{sample}", "problem_id": f"p{problem}"}
        drawn_as = {"prompt_ids": list(row.prompt_ids), "token_ids": one.token_ids, "logprobs": one.logprobs}
        rollouts.append(name | {"prompt_id": f"p{problem}", "sample": sample} | drawn_as)
        verdicts.append(name | {"outcome": "failed", "reward": 0.0})
        told = f"{QUESTIONS[problem]}\n\nStrategy: add, then look.\n\nSolve the question."
        messages = dump_messages([Message(role="user", content=told)])
        contexts.append({"prompt_id": name["rollout_id"], "messages": messages, "has_context": True})
    nothing = Ref(uri="", sha256="", bytes=0)
    request = TrainRequest(
        run="r",
        step=1,
        base=base,
        from_version=0,
        rollouts=nothing,
        verdicts=nothing,
        settings=SETTINGS,
        seed=0,
        out=f"file://{tmp_path}",
    )
    batch = assemble(rollouts, verdicts, contexts, request, AutoTokenizer.from_pretrained(folder), window)
    assert batch.masked == 0
    student = load_model(folder, torch.float32)
    teacher = Teacher(student, SETTINGS, device)
    engine = Engine(student, SETTINGS, device)
    metrics = Updater(engine, teacher).step(batch, SETTINGS, SETTINGS.lr, Stopwatch(device))
    assert metrics["mismatch_kl"] < 1e-6, "the trainer reads the tokens as the sampler drew them"
    assert metrics["loss"] > 1e-5
    assert metrics["skipped"] == 0

    weights = export(engine, folder, request)
    exported = Path(weights.uri.removeprefix("file://"))
    ends = served._language(policy).ends
    plain = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32).eval()
    trained = dict(engine.model.named_parameters())
    for tensor_name, tensor in plain.named_parameters():
        assert torch.equal(tensor, trained[tensor_name]), "an export is what was trained, tied tensors included"
    new = Policy(run="r", weights=weights)
    answers = served.generate(
        new, [Row(p, 0, i) for i, p in enumerate(prompts)], Sampling(temperature=0, max_tokens=16), lambda: None
    )
    assert [one.token_ids for one in answers] == [greedy(plain, prompt, ends, 16) for prompt in prompts]
    changed = any(
        not torch.equal(tensor, trained[tensor_name])
        for tensor_name, tensor in AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).named_parameters()
    )
    assert changed
