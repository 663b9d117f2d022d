"""vLLM behind the service: updates that arrive, deaths that cost nothing, and a child that never outlives us."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, Qwen3ForCausalLM

from pmd.services.common import probe
from pmd.services.common.artifacts import seal_weights
from pmd.services.common.jobs import Retryable
from pmd.services.common.wire import Policy, Sampling
from pmd.services.rollout.completion import Completion, Row
from pmd.services.rollout.engines.vllm import server
from pmd.services.rollout.engines.vllm.server import environment
from pmd.services.rollout.settings import RolloutSettings
from tests.rollout.conftest import TOKEN, make_model, make_tokenizer, probed

needs_vllm = pytest.mark.skipif(
    find_spec("vllm") is None, reason="vLLM is not installed; `make vllm` installs it and runs this"
)
SETTINGS = RolloutSettings(token=TOKEN, rollout_threads=1, rollout_dtype="fp32", rollout_batch_rows=64)
GREEDY = Sampling(temperature=0, max_tokens=16)
UPDATES = 5


def wait_for(what: object, seconds: float = 60.0) -> None:
    assert callable(what)
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)


def patient() -> None:
    """Somebody who waits."""


def group_is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def test_the_child_ends_however_the_service_dies(tmp_path: Path) -> None:
    """The keeper's group: a stand-in for vLLM that has a child of its own, and a service that is killed."""
    program = "import subprocess, time; subprocess.Popen(['sleep', '600']); time.sleep(600)"
    service = (
        "import subprocess, sys, time\n"
        "keeper = subprocess.Popen([sys.executable, '-m', 'pmd.services.rollout.engines.vllm.keeper',"
        f" sys.executable, '-c', {program!r}], stdin=subprocess.PIPE, start_new_session=True)\n"
        "print(keeper.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    dying = subprocess.Popen([sys.executable, "-c", service], stdout=subprocess.PIPE, text=True)
    assert dying.stdout is not None
    group = int(dying.stdout.readline())
    assert not group_is_gone(group)
    dying.kill()
    dying.wait()
    wait_for(lambda: group_is_gone(group), 20)


def test_the_child_knows_no_secret_and_reaches_no_network() -> None:
    caller = {"PMD_TOKEN": "secret", "https_proxy": "http://proxy", "NO_PROXY": "x", "PATH": "/bin", "VLLM_X": "1"}
    given = environment(caller, threads=3)
    assert not {"PMD_TOKEN", "https_proxy", "NO_PROXY"} & given.keys()
    assert (given["PATH"], given["VLLM_X"], given["OMP_NUM_THREADS"]) == ("/bin", "1", "3")
    assert given["HF_HUB_OFFLINE"] == given["VLLM_NO_USAGE_STATS"] == "1"


def make_untied(seed: int) -> PreTrainedModel:
    config = make_model(seed).config
    config.tie_word_embeddings = False
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(config).eval()


def seal(folder: Path, model: PreTrainedModel, version: int) -> Policy:
    """`model` as a trainer publishes it."""
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    facts = {"probe": probed(model, "fp32").model_dump()}
    return Policy(run="demo", weights=seal_weights(folder, version, facts))


def long_rows(seed: int) -> list[Row]:
    """Prompts of several cache blocks that share most of them; the old weights' cache would show."""
    shared = random.Random(0).choices(range(256), k=160)
    return [Row((*shared, *random.Random(10 * seed + i).choices(range(256), k=3 + 7 * i)), 0, i) for i in range(6)]


def greedy(model: PreTrainedModel, row: Row) -> list[int]:
    ids = torch.tensor([row.prompt_ids])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=GREEDY.max_tokens, do_sample=False)
    return list(out[0, ids.shape[1] :].tolist())


@pytest.fixture
def engine() -> Iterator[object]:
    from pmd.services.rollout.engines.vllm.engine import VllmEngine

    made = VllmEngine(SETTINGS)
    yield made
    made.close()


@pytest.mark.slow
@needs_vllm
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("make", [make_model, make_untied], ids=["tied", "untied"])
def test_after_each_update_greedy_output_is_that_of_the_new_weights(engine, make, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for version in range(UPDATES):
        model = make(version)
        policy = seal(tmp_path / str(version), model, version)
        engine.load(policy)
        rows = long_rows(0)
        drawn = engine.generate(policy, rows, GREEDY, patient)
        assert [one.token_ids for one in drawn] == [greedy(model, row) for row in rows], f"update {version}"
        assert {one.policy_version for one in drawn} == {version}


@pytest.mark.slow
@needs_vllm
@pytest.mark.timeout(1800)
def test_law_13_the_silent_fault_of_tied_heads_is_loud(
    engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,  # type: ignore[no-untyped-def]
) -> None:
    monkeypatch.setattr(server, "EXTENSION", "tests.rollout.forgetful.ForgetfulLoader")
    first, second = (seal(tmp_path / str(version), make_model(version), version) for version in (1, 2))
    engine.load(first)
    with pytest.raises(probe.WrongWeights, match="published as demo@2"):
        engine.load(second)
    assert engine.loaded().get("demo") != 2


@pytest.mark.chaos
@needs_vllm
@pytest.mark.timeout(1800)
def test_law_6_a_killed_child_costs_the_unfinished_rows_alone(engine, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    policy = seal(tmp_path / "1", make_model(1), 1)
    engine.load(policy)
    rows = [Row((1 + i % 200, 2, 3), 5, i) for i in range(200)]
    told: list[int] = []
    killed = threading.Event()

    def keep(drawn: Mapping[int, Completion]) -> None:
        told.extend(drawn)
        if not killed.is_set():
            killed.set()
            os.killpg(engine._server.pid, signal.SIGKILL)

    drawn = engine.generate(policy, rows, Sampling(max_tokens=64), patient, keep)
    assert killed.is_set()
    assert sorted(told) == list(range(200)), "each row once"
    assert {one.policy_version for one in drawn} == {1}
    assert engine.loaded() == {"demo": 1}

    os.killpg(engine._server.pid, signal.SIGKILL)
    wait_for(lambda: engine.loaded() == {}, 20)
    wait_for(lambda: engine.loaded() == {"demo": 1}, 900)  # nobody asked


@pytest.mark.chaos
@needs_vllm
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("point", ["load", "logprobs"])
def test_law_13_a_child_killed_during_an_update_comes_back_with_the_new_weights(  # type: ignore[no-untyped-def]
    engine, point: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its tensors are there, and before they are checked."""
    old, new = make_model(1), make_model(2)
    engine.load(seal(tmp_path / "1", old, 1))
    policy = seal(tmp_path / "2", new, 2)
    plain = getattr(server.Server, point)

    def killed(child: server.Server, *given: object) -> object:
        monkeypatch.setattr(server.Server, point, plain)
        os.killpg(child.pid, signal.SIGKILL)
        return plain(child, *given)

    monkeypatch.setattr(server.Server, point, killed)
    with pytest.raises(Retryable):
        engine.load(policy)
    rows = long_rows(1)
    drawn = engine.generate(policy, rows, GREEDY, patient)
    assert {one.policy_version for one in drawn} == {2}
    assert [list(one.token_ids) for one in drawn] == [greedy(new, row) for row in rows]
    assert engine.loaded() == {"demo": 2}


@pytest.mark.slow
@needs_vllm
@pytest.mark.timeout(1800)
def test_what_a_request_can_ask_of_a_child(engine, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """In one start: a schema, a schema that is none, a request that is given up, and a socket that is ours alone."""
    from pmd.services.rollout.completion import UnusableSchema

    policy = seal(tmp_path / "1", make_model(1), 1)
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    rows = [Row((1, 2, 3), 0, i, json.dumps(schema)) for i in range(4)]
    for one in engine.generate(policy, rows, Sampling(max_tokens=200), patient):
        if one.finish_reason == "stop":
            assert isinstance(json.loads(one.text)["ok"], bool)
        assert one.text.lstrip().startswith("{")

    with pytest.raises(UnusableSchema):
        engine.generate(policy, [Row((1, 2), 0, 0, json.dumps({"type": "no such type"}))], GREEDY, patient)

    home = engine._server.socket.parent
    assert home.stat().st_mode & 0o777 == 0o700

    class GivenUpError(Exception):
        pass

    polls = 0

    def give_up() -> None:
        nonlocal polls
        polls += 1
        if polls > 4:
            raise GivenUpError

    with pytest.raises(GivenUpError):
        engine.generate(policy, [Row((1, i), 0, i) for i in range(64)], Sampling(max_tokens=250), give_up)
    # It can be reset only when no request holds a block of it.
    wait_for(lambda: engine._server.ask("POST", "/reset_prefix_cache") == {"success": True}, 5)
