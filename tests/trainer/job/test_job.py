"""The job process: real DeepSpeed, real kills, equal weights."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_run import SETTINGS, TinyRun

from pmd.services.common import probe
from pmd.services.common.artifacts import ArtifactError, check_weights, read_table
from pmd.services.common.options import LoraSettings
from pmd.services.common.requests import TrainResult
from pmd.services.common.wire import Weights
from pmd.services.trainer.job.job import Run, learning_rate, step_error, train
from pmd.services.trainer.job.spool import Spool, SpoolConflict, StepError, write_atomically
from tests.limits import file_size_limit

STEPS = 4


def kill(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def assert_equal_weights(one: TinyRun, other: TinyRun, version: int) -> None:
    left, right = one.tensors(version), other.tensors(version)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="module")
def unkilled(tmp_path_factory: pytest.TempPathFactory, base: Weights) -> TinyRun:
    """A run of `STEPS` steps in one process; the third has lr_scale 0."""
    run = TinyRun(tmp_path_factory.mktemp("unkilled"), base)
    run.train(*(run.request(v, lr_scale=0.0 if v == 2 else 1.0) for v in range(STEPS)))
    return run


def test_every_step_exports_the_next_version_and_changes_it(unkilled: TinyRun) -> None:
    assert [weights.version for weights in unkilled.spool.exported()] == [1, 2, 3, 4]
    for version in (1, 4):
        before, after = (unkilled.tensors(v) if v else {} for v in (version - 1, version))
        assert any(name not in before or not torch.equal(before[name], after[name]) for name in after)


def test_lr_scale_zero_advances_the_version_and_changes_no_parameter(unkilled: TinyRun) -> None:
    before, after = unkilled.tensors(2), unkilled.tensors(3)
    assert all(torch.equal(before[name], after[name]) for name in after)
    result = unkilled.spool.result(2)
    assert result is not None
    assert (result.weights.version, result.metrics["lr"]) == (3, 0.0)


def test_what_the_teacher_held_of_each_token_is_written_once(unkilled: TinyRun) -> None:
    request, result = unkilled.spool.request(1), unkilled.spool.result(1)
    assert request is not None
    assert result is not None
    assert result.taught is not None
    drawn = {row["rollout_id"]: row["token_ids"] for row in read_table(request.rollouts)}
    taught = {row["rollout_id"]: row["teacher_logprobs"] for row in read_table(result.taught)}
    assert taught.keys() == drawn.keys()
    assert all(len(logps) == len(drawn[name]) and max(logps) <= 0.0 for name, logps in taught.items())


def test_metrics_say_what_happened(unkilled: TinyRun) -> None:
    result = unkilled.spool.result(0)
    assert result is not None
    metrics = result.metrics
    assert metrics["sequences"] == 16
    assert metrics["masked"] == 0
    assert metrics["loss"] > 0
    assert metrics["grad_norm"] > 0
    assert metrics["mismatch_kl"] > 0
    assert 0 < metrics["entropy"] < 4.2
    assert 0 < metrics["teacher_entropy"] < 4.2
    parts = [metrics[f"seconds_{part}"] for part in ("load", "teacher", "student", "optimizer", "export")]
    assert 0 < sum(parts) <= metrics["seconds"]


def test_exported_folder_loads_in_transformers_and_equals_what_was_trained(unkilled: TinyRun) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    result = unkilled.spool.result(3)
    assert result is not None
    folder = check_weights(result.weights)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    tensors = unkilled.tensors(4)
    assert all(torch.equal(tensors[name], value) for name, value in model.state_dict().items() if name in tensors)
    base = check_weights(unkilled.base)
    assert (folder / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    assert (folder / "generation_config.json").read_bytes() == (base / "generation_config.json").read_bytes()
    assert AutoTokenizer.from_pretrained(folder).chat_template == AutoTokenizer.from_pretrained(base).chat_template
    assert (base / "tf_model.h5").exists()
    assert not (folder / "tf_model.h5").exists()


def test_law_13_a_manifest_says_what_the_trained_model_says(unkilled: TinyRun) -> None:
    """Of a text that is the probe's own; by the weights in the folder, not by those of the step before."""
    from transformers import AutoModelForCausalLM

    result, other = unkilled.spool.result(3), unkilled.spool.result(0)
    assert result is not None
    assert other is not None
    said = probe.read(check_weights(result.weights))
    assert said is not None
    assert (said.precision, said.token_ids) == ("fp32", probe.text(64))

    def gap(weights: Weights) -> float:
        model = AutoModelForCausalLM.from_pretrained(check_weights(weights))
        with torch.inference_mode():
            logprobs_TV = model(torch.tensor([said.token_ids])).logits[0, :-1].log_softmax(-1)
        ours = logprobs_TV.gather(1, torch.tensor(said.token_ids[1:])[:, None])[:, 0]
        return probe.gap(said.logprobs, ours.tolist())

    assert gap(result.weights) < 1e-5
    assert gap(other.weights) > probe.BOUND["fp32"]


def test_superseded_versions_are_removed_and_their_steps_can_be_repeated(tmp_path: Path, base: Weights) -> None:
    run = TinyRun(tmp_path, base, SETTINGS.model_copy(update={"checkpoint_every": 9}))
    run.train(run.request(0), run.request(1, superseded=(1,)))
    assert [path.name for path in (tmp_path / "weights").glob("v*")] == ["v0002"]
    (third,) = run.train(run.request(2, superseded=(1,)))  # a fresh process: all steps again
    assert sorted(path.name for path in (tmp_path / "weights").glob("v*")) == ["v0002", "v0003"]
    assert check_weights(third.weights)


def test_newest_two_checkpoints_are_kept(unkilled: TinyRun) -> None:
    assert unkilled.spool.saved_versions() == [3, 4]


def test_the_same_request_finds_its_result_and_another_is_refused(unkilled: TinyRun) -> None:
    result = unkilled.spool.result(1)
    unkilled.spool.submit(unkilled.request(1))
    assert unkilled.spool.result(1) == result
    with pytest.raises(SpoolConflict, match="can't be redone"):
        unkilled.spool.submit(unkilled.request(1, lr_scale=0.5))
    with pytest.raises(SpoolConflict, match="in order"):
        unkilled.spool.submit(unkilled.request(9))


def test_the_process_writes_nothing_but_json_lines(unkilled: TinyRun) -> None:
    lines = (unkilled.folder / "log").read_text().splitlines()
    assert [line for line in lines if not line.startswith("{")] == []


@pytest.mark.chaos
@pytest.mark.slow
def test_a_run_that_lost_its_process_and_checkpoints_replays_to_the_same_weights(
    tmp_path: Path, base: Weights, unkilled: TinyRun
) -> None:
    run = TinyRun(tmp_path, base)
    run.train(run.request(0), run.request(1))
    first = run.spool.result(1)
    shutil.rmtree(run.spool.checkpoint(2))
    run.train(run.request(2, lr_scale=0.0))  # from checkpoint 1: step 1 again, then step 2
    assert run.spool.result(1) == first
    shutil.rmtree(run.spool.checkpoints)
    run.train(run.request(3))  # from the base: all steps again
    assert_equal_weights(run, unkilled, 4)


def test_a_reference_is_kept_from_the_start_or_never(tmp_path: Path, base: Weights) -> None:
    run = TinyRun(tmp_path, base, SETTINGS.model_copy(update={"loss": "grpo"}))
    later = run.settings.model_copy(update={"reference_kl": 0.1})
    with pytest.raises(AssertionError, match=r"reference_kl: a run keeps a reference from its start or never"):
        run.train(run.request(0), run.request(1, settings=later))
    assert run.spool.result(0) is not None


@pytest.mark.chaos
@pytest.mark.slow
def test_kill_9_at_any_moment_loses_no_step_and_doubles_none(tmp_path: Path, base: Weights, unkilled: TinyRun) -> None:
    run = TinyRun(tmp_path, base)
    spool = run.spool

    def weights_half_written() -> bool:
        return (tmp_path / "weights" / "v0001.tmp").exists()

    def weights_written() -> bool:
        return (tmp_path / "weights" / "v0002").exists()

    def checkpoint_half_written() -> bool:
        return (spool.checkpoints / "part.tmp" / "deepspeed").exists()

    def checkpoint_written() -> bool:
        return spool.checkpoint(4).exists()

    moments: list[Callable[[], bool]] = [
        weights_half_written,
        weights_written,
        checkpoint_half_written,
        checkpoint_written,
    ]
    for version, moment in enumerate(moments):
        spool.submit(run.request(version, lr_scale=0.0 if version == 2 else 1.0))
        process = run.start()
        deadline = time.monotonic() + 90
        while not moment() and time.monotonic() < deadline:
            pass
        kill(process)
        process = run.start()
        run.wait(version, process)
        kill(process)
        assert_equal_weights(run, unkilled, version + 1)


def test_a_step_with_missing_data_fails_by_name_and_the_process_lives_on(tmp_path: Path, base: Weights) -> None:
    run = TinyRun(tmp_path, base)
    request = run.request(0)
    lost = request.model_copy(update={"verdicts": request.verdicts.model_copy(update={"uri": f"file://{tmp_path}/no"})})
    run.spool.submit(lost)
    process = run.start(idle_s=10.0)
    try:
        while (error := run.spool.error(0)) is None and process.poll() is None:
            time.sleep(0.02)
        assert error is not None
        assert "does not exist" in error.message
        assert error.retryable  # a mount that is lost looks like this
        run.spool.submit(request)
        assert run.wait(0, process).weights.version == 1
    finally:
        kill(process)


def test_a_step_that_cannot_be_repeated_for_now_fails_the_one_that_is_waited_for(
    tmp_path: Path, base: Weights, device: torch.device
) -> None:
    run = TinyRun(tmp_path, base, SETTINGS.model_copy(update={"checkpoint_every": 5}))
    requests = [run.request(version) for version in range(3)]
    for request in requests[:2]:
        run.spool.submit(request)
        train(run.spool, 0.0, device)
    assert [run.spool.applied(version) for version in range(3)] == [True, True, False]
    rollouts = tmp_path / "data" / "1.0.parquet"
    rollouts.rename(tmp_path / "away")
    run.spool.submit(requests[2])
    train(run.spool, 0.0, device)
    error = run.spool.error(2)
    assert error is not None
    assert "step 1 can't be repeated" in error.message
    assert str(rollouts) in error.message
    assert error.retryable
    assert run.spool.error(1) is None
    (tmp_path / "away").rename(rollouts)
    run.spool.submit(requests[2])
    train(run.spool, 0.0, device)
    assert run.spool.applied(2)


def test_law_6_a_run_that_goes_on_from_its_checkpoint_trains_what_an_unbroken_one_does(
    tmp_path: Path, base: Weights, device: torch.device
) -> None:
    """Weights, the optimizer's moments and the teacher come back: without one of them the third step is another."""
    settings = SETTINGS.model_copy(update={"teacher_ema": 0.5})
    whole, broken = (TinyRun(tmp_path / name, base, settings) for name in ("whole", "broken"))
    unbroken = None
    for version in range(3):
        for run in (whole, broken):
            run.spool.submit(run.request(version))
        unbroken = unbroken or Run(whole.spool, whole.request(0), device)
        unbroken.apply(whole.request(version))
        train(broken.spool, 0.0, device)  # loads anew, does one step, ends
    assert_equal_weights(whole, broken, 3)


def test_law_6_a_step_is_applied_to_the_run_and_the_version_that_it_names(
    tmp_path: Path, base: Weights, device: torch.device
) -> None:
    run = TinyRun(tmp_path, base)
    request = run.request(0)
    run.spool.submit(request)
    one = Run(run.spool, request, device)
    refused = {
        "the run is at version 0, not 1": {"from_version": 1},
        "can't change its base model": {"base": base.model_copy(update={"sha256": "another"})},
        "settings.weight_decay: was 0.01": {"settings": SETTINGS.model_copy(update={"weight_decay": 0.5})},
        "settings.loss: was distill": {"settings": SETTINGS.model_copy(update={"loss": "grpo"})},
        "settings.lora: was None": {"settings": SETTINGS.model_copy(update={"lora": LoraSettings()})},
        "settings.teacher_weights: was ema": {"settings": SETTINGS.model_copy(update={"teacher_weights": "live"})},
    }
    for cause, changes in refused.items():
        one.apply(request.model_copy(update=changes))
        error = run.spool.error(0)
        assert error is not None
        assert cause in error.message
        assert (one.version, error.retryable) == (0, False)
        run.spool.submit(request)  # what is submitted again is open again
    one.apply(request)
    assert one.version == 1


def test_law_6_weights_of_another_training_are_no_answer(tmp_path: Path, base: Weights, device: torch.device) -> None:
    run = TinyRun(tmp_path, base)
    run.spool.submit(run.request(0))
    train(run.spool, 0.0, device)
    run.spool = Spool(tmp_path / "lost")
    run.spool.submit(run.request(0, lr_scale=0.5))
    with pytest.raises(ArtifactError, match="weights of another training"):
        train(run.spool, 0.0, device)


def test_steps_that_were_lost_are_not_passed_over(tmp_path: Path, base: Weights, device: torch.device) -> None:
    run = TinyRun(tmp_path, base)
    with pytest.raises(ValueError, match="the step after version 0 is not recorded"):
        Run(run.spool, run.request(1), device)


def test_the_learning_rate_warms_up_and_is_scaled() -> None:
    settings = SETTINGS.model_copy(update={"lr": 8.0, "warmup_steps": 4})
    assert [learning_rate(settings, version, 0.5) for version in range(6)] == [1.0, 2.0, 3.0, 4.0, 4.0, 4.0]


@pytest.mark.parametrize(
    ("decay", "rates"),
    [("linear", [4.0, 8.0, 8.0, 6.0, 4.0, 2.0]), ("cosine", [4.0, 8.0, 8.0, 6.828427, 4.0, 1.171573])],
)
def test_the_learning_rate_falls_to_nothing_behind_the_last_step(decay: str, rates: list[float]) -> None:
    settings = SETTINGS.model_copy(update={"lr": 8.0, "warmup_steps": 2, "decay": decay, "steps": 6})
    assert [learning_rate(settings, version, 1.0) for version in range(6)] == pytest.approx(rates)
    assert learning_rate(settings, 6, 1.0) == pytest.approx(0.0)


def test_applied_steps_are_open_to_be_repeated_while_one_is_waited_for(tmp_path: Path, base: Weights) -> None:
    run = TinyRun(tmp_path, base)
    result = TrainResult(weights=base.model_copy(update={"version": 1}), metrics={})
    error = StepError(message="no", retryable=True)
    requests = [run.request(version) for version in range(2)]
    run.spool.submit(requests[0])
    run.spool.record(0, result)
    run.spool.record(0, error)  # of a repetition, by an older release
    assert run.spool.open(0) is None
    run.spool.submit(requests[1])
    assert [run.spool.open(version) for version in range(3)] == [*requests, None]
    run.spool.fail(error)
    assert [run.spool.open(version) for version in range(3)] == [None, None, None]


@pytest.mark.parametrize(
    "write",
    [
        lambda path: torch.save(torch.zeros(10_000), path),
        lambda path: save_file({"a": torch.zeros(10_000)}, path),
        lambda path: path.write_bytes(bytes(40_000)),
    ],
    ids=["torch", "safetensors", "python"],
)
def test_a_full_disk_is_an_error_that_may_pass(tmp_path: Path, write: Callable[[Path], object]) -> None:
    with pytest.raises(Exception) as caught, file_size_limit(4096):  # noqa: PT011 -- each writer has its own
        write(tmp_path / "file")
    assert step_error(caught.value).retryable
    assert not step_error(ValueError("no such objective")).retryable


def test_what_a_full_disk_cut_short_does_not_fill_it_further(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="too large"), file_size_limit(4096):
        write_atomically(tmp_path / "result.json", "." * 40_000)
    assert list(tmp_path.iterdir()) == []


def test_the_last_step_of_a_run_ends_its_process_and_its_checkpoints(tmp_path: Path, base: Weights) -> None:
    run = TinyRun(tmp_path, base)
    process = run.start()
    try:
        run.spool.submit(run.request(0))
        run.wait(0, process)
        assert process.poll() is None
        assert run.spool.saved_versions() == [1]
        run.spool.submit(run.request(1, last=True))
        assert process.wait(60) == 0
        assert run.wait(1, process).weights.version == 2
        assert run.spool.saved_versions() == []
    finally:
        if process.poll() is None:
            kill(process)


def test_an_idle_process_ends_and_a_second_one_waits_for_the_first(tmp_path: Path, base: Weights) -> None:
    run = TinyRun(tmp_path, base)
    with run.spool.lock(0.0):
        process = run.start(idle_s=0.2)
        time.sleep(6.0)
        assert process.poll() is None  # it waits for the lock
    assert process.wait(60) == 0


@pytest.mark.slow
def test_a_machine_without_a_compiler_is_enough(tmp_path: Path, base: Weights) -> None:
    run = TinyRun(tmp_path, base)
    empty = tmp_path / "bin"
    empty.mkdir()
    run.train(run.request(0), env={"PATH": str(empty), "TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions")})
    assert not (tmp_path / "extensions").exists()
