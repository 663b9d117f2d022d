"""What every engine promises; the next one joins `ENGINES` and must keep it."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel

from pmd.services.common import probe
from pmd.services.common.adapters import ADAPTER_OF
from pmd.services.common.artifacts import ArtifactError, seal_weights
from pmd.services.common.wire import Message, Policy, Sampling
from pmd.services.rollout.completion import Completion, DivergedError, Row
from pmd.services.rollout.engines import Engine
from pmd.services.rollout.engines.transformers.engine import TransformersEngine
from pmd.services.rollout.settings import RolloutSettings
from tests.rollout.conftest import END, TOKEN, MakePolicy, make_model, make_tokenizer, probed, tampered

SETTINGS = RolloutSettings(token=TOKEN, rollout_threads=1, rollout_dtype="fp32", rollout_batch_rows=64)
ENGINES = [
    "transformers",
    # One start of vLLM's server, a minute or several, serves the whole module.
    pytest.param("vllm", marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
]
WARM = Sampling(temperature=0.8, max_tokens=12)
ROWS = [Row(tuple(range(3 + i % 4)), seed=7, stream=i // 2) for i in range(8)]


@pytest.fixture(params=ENGINES, scope="module")
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    made = make_vllm() if request.param == "vllm" else TransformersEngine(SETTINGS)
    yield made
    made.close()


def make_vllm() -> Engine:
    if find_spec("vllm") is None:
        pytest.skip("vLLM is not installed; `make vllm` installs it and runs this")
    from pmd.services.rollout.engines.vllm.engine import VllmEngine

    return VllmEngine(SETTINGS)


def patient() -> None:
    """Somebody who waits."""


def test_it_says_what_it_is_and_what_is_loaded(engine: Engine, make_policy: MakePolicy) -> None:
    assert {"engine", "device", "dtype"} <= engine.details().keys()
    assert "fresh" not in engine.loaded()
    engine.load(make_policy("fresh", version=1))
    assert engine.loaded()["fresh"] == 1
    engine.load(make_policy("fresh", version=2))
    assert engine.loaded()["fresh"] == 2


def test_law_9_a_completion_comes_from_the_version_that_was_asked_for(engine: Engine, make_policy: MakePolicy) -> None:
    """Also when another version, or an older one, is in memory."""
    drawn = {}
    for version in (1, 2, 1):
        completions = engine.generate(make_policy(version=version), ROWS, WARM, patient)
        assert {one.policy_version for one in completions} == {version}
        assert drawn.setdefault(version, completions) == completions
    assert drawn[1] != drawn[2]


def test_tokens_depend_on_the_row_alone(engine: Engine, make_policy: MakePolicy) -> None:
    policy = make_policy()
    together = engine.generate(policy, ROWS, WARM, patient)
    alone = [engine.generate(policy, [row], WARM, patient)[0] for row in reversed(ROWS)]
    assert [one.token_ids for one in together] == [one.token_ids for one in reversed(alone)]
    other = engine.generate(policy, [Row(row.prompt_ids, 8, row.stream) for row in ROWS], WARM, patient)
    assert [one.token_ids for one in other] != [one.token_ids for one in together]


def test_logprobs_are_the_samplers_own(engine: Engine, make_policy: MakePolicy) -> None:
    """Against a plain forward pass of the same weights, at the sampling temperature."""
    model = make_model(1)
    for row, one in zip(ROWS, engine.generate(make_policy(version=1), ROWS, WARM, patient), strict=True):
        ids = torch.tensor([[*row.prompt_ids, *one.token_ids]])
        with torch.no_grad():
            logits = model(ids).logits[0, len(row.prompt_ids) - 1 : -1] / WARM.temperature
        expected = logits.log_softmax(-1).gather(-1, ids[0, len(row.prompt_ids) :, None])[:, 0]
        assert one.logprobs == pytest.approx(expected.tolist(), abs=1e-4)


def test_a_completion_ends_with_the_end_token_or_is_cut(engine: Engine, make_policy: MakePolicy) -> None:
    end = make_tokenizer().eos_token_id
    for one in engine.generate(make_policy(), ROWS * 8, Sampling(temperature=1.0, max_tokens=30), patient):
        assert len(one.token_ids) == len(one.logprobs) <= 30
        assert (one.token_ids[-1] == end) == (one.finish_reason == "stop")
        assert end not in one.token_ids[:-1]
        assert END not in one.text


def test_prompts_are_rendered_by_the_policys_template(engine: Engine, make_policy: MakePolicy) -> None:
    conversation = [Message(role="user", content="how?"), Message(role="assistant", content="so")]
    (ids, other), window = engine.render(make_policy(), [conversation, conversation[:1]])
    assert "".join(engine.tokens_as_text(make_policy(), ids)) == (
        "<|im_start|>user\nhow?<|im_end|>\n<|im_start|>assistant\nso<|im_end|>\n<|im_start|>assistant\n"
    )
    assert len(other) < len(ids)
    assert window == 256


def test_weights_that_are_not_what_they_say_are_refused_whole(engine: Engine, make_policy: MakePolicy) -> None:
    good = make_policy("refused", version=1)
    with pytest.raises(ArtifactError):
        engine.load(tampered(good))
    with pytest.raises(ArtifactError):
        engine.generate(tampered(good), ROWS, WARM, patient)
    assert "refused" not in engine.loaded()
    assert engine.generate(good, ROWS, WARM, patient)[0].policy_version == 1


def adapted(base: Policy, version: int, folder: Path, of_base: int = 1) -> tuple[Policy, PreTrainedModel]:
    """An adapter of `base` as its trainer publishes it, and the model that it makes; `of_base`: the base's version."""
    model = get_peft_model(make_model(of_base), LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    torch.manual_seed(version)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.2)
    model.save_pretrained(folder)
    whole = model.merge_and_unload().eval()
    facts = {ADAPTER_OF: base.weights.model_dump(), "probe": probed(whole, "fp32").model_dump()}
    return Policy(run=base.run, weights=seal_weights(folder, version, facts)), whole


def test_law_9_an_adapter_speaks_with_its_base_and_alone(
    engine: Engine, make_policy: MakePolicy, tmp_path: Path
) -> None:
    """Base, adapters and base again: each says what a model of its own does."""
    base = make_policy("lora", version=1)
    made = {version: adapted(base, version, tmp_path / str(version)) for version in (2, 3)} | {1: (base, make_model(1))}
    drawn = {}
    for version in (1, 2, 3, 1, 2):
        policy, model = made[version]
        completions = engine.generate(policy, ROWS, WARM, patient)
        assert {one.policy_version for one in completions} == {version}
        assert [one.token_ids for one in completions] == drawn.setdefault(version, [c.token_ids for c in completions])
        for row, one in zip(ROWS, completions, strict=True):
            ids = torch.tensor([[*row.prompt_ids, *one.token_ids]])
            with torch.no_grad():
                logits = model(ids).logits[0, len(row.prompt_ids) - 1 : -1] / WARM.temperature
            expected = logits.log_softmax(-1).gather(-1, ids[0, len(row.prompt_ids) :, None])[:, 0]
            assert one.logprobs == pytest.approx(expected.tolist(), abs=1e-3)
    assert len({str(tokens) for tokens in drawn.values()}) == 3
    conversation = [Message(role="user", content="how?")]
    assert engine.render(made[3][0], [conversation]) == engine.render(base, [conversation])


def test_law_13_an_adapter_of_another_model_is_refused(engine: Engine, make_policy: MakePolicy, tmp_path: Path) -> None:
    base = make_policy("lora", version=1)
    policy, _ = adapted(base, 2, tmp_path / "good")
    other = adapted(make_policy("lora", version=2), 3, tmp_path / "other")[0]
    with pytest.raises(probe.WrongWeights):
        engine.load(other)
    assert engine.generate(policy, ROWS, WARM, patient)[0].policy_version == 2


def test_law_13_an_adapter_of_another_base_is_put_on_that_base(
    engine: Engine, make_policy: MakePolicy, tmp_path: Path
) -> None:
    engine.load(adapted(make_policy("moved", version=1), 2, tmp_path / "first")[0])
    policy, _ = adapted(make_policy("moved", version=2), 3, tmp_path / "second", of_base=2)
    engine.load(policy)  # its probe is of base and adapter together
    assert engine.generate(policy, ROWS, WARM, patient)[0].policy_version == 3


def test_a_policy_that_has_diverged_is_an_error(engine: Engine, tmp_path: Path) -> None:
    model = make_model(1)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    model.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(DivergedError):
        engine.generate(Policy(run="demo", weights=seal_weights(tmp_path, 1, {})), ROWS, WARM, patient)


def test_law_13_a_model_that_is_not_what_its_trainer_says_is_refused(engine: Engine, tmp_path: Path) -> None:
    said = probed(make_model(1), "fp32")
    for name, claim in (("true", said), ("false", said.model_copy(update={"logprobs": [-1.0] * 32}))):
        folder = tmp_path / name
        make_model(1).save_pretrained(folder)
        make_tokenizer().save_pretrained(folder)
        policy = Policy(run=name, weights=seal_weights(folder, 1, {"probe": claim.model_dump()}))
        if name == "true":
            engine.load(policy)
            assert engine.loaded()["true"] == 1
            continue
        with pytest.raises(probe.WrongWeights, match=rf"replica {socket.gethostname()} .* published as false@1"):
            engine.generate(policy, ROWS, WARM, patient)
        assert "false" not in engine.loaded()


def test_each_row_is_told_of_once_and_the_rest_may_be_drawn_later(engine: Engine, make_policy: MakePolicy) -> None:
    class StoppedError(Exception):
        pass

    told: dict[int, Completion] = {}
    policy, greedy = make_policy(), Sampling(temperature=0, max_tokens=12)

    def keep(drawn: Mapping[int, Completion]) -> None:
        assert not told.keys() & drawn.keys()
        told.update(drawn)

    whole = engine.generate(policy, ROWS, greedy, patient, keep)
    assert [told[i] for i in range(len(ROWS))] == whole
    rest = engine.generate(policy, ROWS[3:], greedy, patient)
    assert [one.token_ids for one in rest] == [one.token_ids for one in whole[3:]]

    def stop(_: Mapping[int, Completion]) -> None:
        raise StoppedError

    with pytest.raises(StoppedError):
        engine.generate(policy, ROWS, greedy, patient, stop)


def test_who_gives_up_ends_the_work(engine: Engine, make_policy: MakePolicy) -> None:
    class GivenUpError(Exception):
        pass

    asked = 0

    def after_three() -> None:
        nonlocal asked
        asked += 1
        if asked > 3:
            raise GivenUpError

    with pytest.raises(GivenUpError):
        engine.generate(make_policy(), ROWS * 16, Sampling(temperature=1, max_tokens=200), after_three)
    assert asked == 4
    assert engine.generate(make_policy(), ROWS, WARM, patient)
