"""Law 13 with a real sampler and a real trainer: a replica that serves other weights than it says stops the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

import pmd
from pmd.gateway.loop.alarms import alarms
from pmd.gateway.loop.state import PhaseName, Record, RunState
from pmd.gateway.recipes.files import load_recipe
from pmd.gateway.recipes.inputs import Inputs
from pmd.gateway.recipes.problems import parse_recipe
from pmd.services.common.artifacts import read_table, seal_weights
from pmd.services.common.jobs import JobContext
from pmd.services.common.options import TrainSettings
from pmd.services.common.requests import GenerateRequest, PublishRequest, TrainRequest, TrainResult
from pmd.services.common.wire import Policy, Ref, Sampling
from pmd.services.rollout.engines.transformers import engine as transformers_engine
from pmd.services.rollout.handlers import generate, publish
from pmd.services.rollout.parts import Parts
from pmd.services.rollout.published import Published
from pmd.services.rollout.settings import RolloutSettings
from pmd.services.trainer.training.batch import assemble
from pmd.services.trainer.training.engine import Engine
from pmd.services.trainer.training.model import load_model
from pmd.services.trainer.training.update import Stopwatch, Updater
from tests.rollout.conftest import make_model, make_tokenizer, write_prompts

STEP = 3  # draws with version 2


def version(folder: Path, number: int, noise: float) -> Policy:
    """The tiny model after a change of `noise` times each tensor's spread: a training step or so."""
    folder.mkdir()
    model = make_model(1)
    generator = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for tensor in model.parameters():
            if tensor.dim() > 1:
                tensor.add_(noise * tensor.std() * torch.randn(tensor.shape, generator=generator))
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return Policy(run="demo-1", weights=seal_weights(folder, number, {}))


def said(folder: Path, device: torch.device, dtype: str = "fp32") -> list[str]:
    """What the run says of its step 3, which draws with version 2 and measures with the trainer's version 2."""
    first, second = version(folder / "v1", 1, 0.0), version(folder / "v2", 2, 0.05)
    token: Any = "x" * 16
    settings = RolloutSettings(token=token, rollout_threads=1, rollout_device="cpu", rollout_dtype=dtype)  # type: ignore[arg-type]
    engine, published = transformers_engine.TransformersEngine(settings), Published(folder / "published.sqlite")
    for policy in (first, second):
        publish(engine, published, PublishRequest(policy=policy))
    asked = GenerateRequest(
        policy=second,
        prompts=write_prompts(folder, ["one and one", "two and three"]),
        n=4,
        sampling=Sampling(max_tokens=24),
        seed=1,
        out=f"file://{folder}/rollouts.parquet",
    )
    drawn = generate(engine, asked, JobContext("key", cancelled=_never()), Parts(folder / "parts.sqlite"))
    rows = read_table(drawn.rollouts)
    assert {row["policy_version"] for row in rows} == {2}, "it says so, whatever it serves"
    verdicts = [
        {k: row[k] for k in ("rollout_id", "problem_id", "split")}
        | {"outcome": "passed" if i % 2 else "failed", "reward": float(i % 2), "feedback": ""}
        for i, row in enumerate(rows)
    ]
    request = TrainRequest(
        run="demo-1",
        step=STEP,
        base=first.weights,
        from_version=2,
        rollouts=drawn.rollouts,
        verdicts=drawn.rollouts,
        settings=TrainSettings(loss="grpo", lr=1e-3),
        seed=0,
        out="",
    )
    batch = assemble(rows, verdicts, None, request, AutoTokenizer.from_pretrained(folder / "v2"), 256)
    updater = Updater(Engine(load_model(folder / "v2", torch.float32), request.settings, device), None)
    metrics = updater.step(batch, request.settings, 0.0, Stopwatch(device))
    trained = TrainResult(weights=second.weights, metrics=metrics, mismatch=updater.gaps)
    records = {
        (STEP, PhaseName.ROLLOUT): Record(drawn.model_dump(mode="json")),
        (STEP, PhaseName.TRAIN): Record(trained.model_dump(mode="json")),
    }
    recipe = parse_recipe(load_recipe(Path(pmd.__file__).parent / "recipes" / "pocket.yaml"))
    nothing = Ref(uri="", sha256="", bytes=0)
    inputs = Inputs(root="", base=first.weights, problems=nothing, prompts=nothing, train=("p0",), evaluation=())
    raised = alarms(RunState("demo-1", recipe, inputs, records), STEP, PhaseName.TRAIN)
    return [alarm.message for alarm in raised if alarm.kind == "mismatch" and alarm.pauses]


def _never() -> Any:
    import threading

    return threading.Event()


def test_law_13_a_replica_that_keeps_old_weights_stops_the_run(
    tmp_path: Path, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The load that answers well and changes nothing, as tied heads have been left behind by an engine."""
    monkeypatch.setattr(transformers_engine, "copy_tensors", lambda _model, _folder: True)
    (message,) = said(tmp_path, device)
    assert "the rollout service served as version 2 may not be the trainer's" in message


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_replica_with_the_right_weights_goes_on(dtype: str, tmp_path: Path, device: torch.device) -> None:
    assert said(tmp_path, device, dtype) == []
