"""Adapters: what is trained, averaged, published and resumed where the weights themselves stay."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from tiny_run import SETTINGS, WINDOW, TinyRun, rows
from transformers import AutoModelForCausalLM, AutoTokenizer

from pmd.services.common.adapters import ADAPTER_OF, adapter_of
from pmd.services.common.artifacts import MANIFEST, ArtifactError, check_weights
from pmd.services.common.options import LoraSettings, TrainSettings
from pmd.services.common.wire import Weights
from pmd.services.trainer.export import export
from pmd.services.trainer.job.job import Run, train
from pmd.services.trainer.merge import merge
from pmd.services.trainer.training.adapter import adapted, factors
from pmd.services.trainer.training.batch import TrainBatch, assemble
from pmd.services.trainer.training.engine import Engine
from pmd.services.trainer.training.model import load_model, load_student
from pmd.services.trainer.training.packing import Rows, pack
from pmd.services.trainer.training.teacher import Teacher
from pmd.services.trainer.training.update import Stopwatch, Updater

LORA = SETTINGS.model_copy(update={"lora": LoraSettings(rank=4, alpha=8), "lr": 1e-2, "teacher_ema": 0.3})
STEPS = 6


class Student:
    """A student of the tiny base, its teacher, and batches for both."""

    def __init__(self, base: Weights, folder: Path, device: torch.device, settings: TrainSettings) -> None:
        self.base, self.folder, self.device, self.settings = base, folder, device, settings
        self.model = load_student(folder, settings, seed=1)
        self.teacher = Teacher(self.model, settings, device)
        self.engine = Engine(self.model, settings, device)
        self.updater = Updater(self.engine, self.teacher)

    def batch(self, version: int) -> TrainBatch:
        request = TinyRun(self.folder.parent / "unused", self.base, self.settings).request
        tokenizer = AutoTokenizer.from_pretrained(self.folder)
        return assemble(*rows(seed=version), request(version), tokenizer, WINDOW)

    def step(self, version: int) -> dict[str, float]:
        batch = self.batch(version)
        return self.updater.step(batch, self.settings, self.settings.lr, Stopwatch(self.device))

    def products(self) -> dict[str, torch.Tensor]:
        """What the student adds to each matrix."""
        tensors = {name: tensor.clone() for name, tensor in self.engine.trained_fp32()}
        pairs = {name: factors(layer, name, tensors) for name, layer in adapted(self.model).items()}
        return {name: b_OR @ a_RI for name, (b_OR, a_RI) in pairs.items()}

    def plain(self, added: dict[str, torch.Tensor]) -> torch.nn.Module:
        """The base as a model of its own, with matrices added."""
        model = load_model(self.folder, torch.float32).eval()
        with torch.no_grad():
            for name, delta in added.items():
                model.get_submodule(name).weight += delta
        return model

    def teacher_rows(self) -> Rows:
        batch = pack(self.batch(0).samples, [1.0] * len(self.batch(0).samples), self.device, share=True)
        assert batch.teacher is not None
        return batch.teacher

    def taught(self) -> torch.Tensor:
        """The teacher's logits."""
        voices = self.teacher.voices(self.engine, self.teacher_rows(), self.settings)
        logits = [voice.share * voice.head.logits(voice.head.product(voice.hidden_ND)) for voice in voices]
        return torch.stack(logits).sum(0)

    def said(self, model: torch.nn.Module) -> torch.Tensor:
        """Logits of a model of its own, read sequence by sequence."""
        found = []
        with torch.no_grad():
            for s in self.batch(0).samples:
                ids = torch.tensor([[*s.teacher_ids, *s.completion_ids]])
                found.append(model(input_ids=ids).logits[0, len(s.teacher_ids) - 1 : -1])  # type: ignore[operator]
        return torch.cat(found)


Make = Callable[..., Student]


@pytest.fixture
def make(base: Weights, base_folder: Path, device: torch.device) -> Make:
    def made(**changes: object) -> Student:
        return Student(base, base_folder, device, LORA.model_copy(update=changes))

    return made


def test_the_teacher_is_the_average_of_merged_weights(make: Make) -> None:
    one = make()
    merged = {name: torch.zeros_like(added) for name, added in one.products().items()}
    for version in range(STEPS):
        metrics = one.step(version)
        assert metrics["skipped"] == 0
        merged = {name: torch.lerp(merged[name], added, 0.3) for name, added in one.products().items()}
    assert one.teacher.state().keys() == merged.keys()
    for name, added in merged.items():
        assert float(added.abs().max()) > 1e-3, "it has learnt something"
        torch.testing.assert_close(one.teacher.state()[name], added, atol=1e-6, rtol=0)
    torch.testing.assert_close(one.taught(), one.said(one.plain(merged)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("lora", [None, LORA.lora])
@pytest.mark.parametrize("weights", ["initial", "live", "trust_region"])
def test_the_teacher_has_the_weights_that_were_chosen(make: Make, weights: str, lora: LoraSettings | None) -> None:
    one = make(teacher_weights=weights, lora=lora, teacher_ema=0.25)
    one.step(0)
    base, live = one.said(one.plain({})), one.said(one.model.eval())
    assert float((base - live).abs().max()) > 1e-2
    want = {"initial": base, "live": live, "trust_region": 0.75 * base + 0.25 * live}[weights]
    torch.testing.assert_close(one.taught(), want, atol=1e-4, rtol=1e-4)
    assert one.teacher.state() == {}, "nothing of it moves, so a checkpoint holds nothing of it"


def test_what_is_frozen_stays_and_is_there_once(make: Make) -> None:
    one = make()
    before = {name: one_.clone() for name, one_ in one.model.named_parameters() if not one_.requires_grad}
    one.step(0)
    after = dict(one.model.named_parameters())
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    trained = [name for name, _ in one.engine.trained_fp32()]
    assert len(trained) == 2 * 2 * 7
    assert all("lora_" in name for name in trained)


@pytest.mark.parametrize(("stage", "precision"), [(1, "fp32"), (2, "fp32"), (3, "fp32"), (2, "bf16"), (3, "bf16")])
def test_every_zero_stage_trains_the_same_adapter(make: Make, stage: int, precision: str) -> None:
    plain, one = make(lr=1e-3), make(lr=1e-3, zero_stage=stage, precision=precision)
    exact = precision == "fp32"
    for version in range(2):
        assert one.step(version) == pytest.approx(plain.step(version), rel=1e-4 if exact else 0.1, abs=1e-5)
    got = one.products()
    for name, added in plain.products().items():
        torch.testing.assert_close(got[name], added, atol=1e-5 if exact else 1e-2, rtol=0)


def test_an_adapter_is_published_for_peft_with_its_base_by_hash(make: Make, base: Weights, tmp_path: Path) -> None:
    one = make()
    request = TinyRun(tmp_path, base, one.settings).request(0)
    one.step(0)
    weights = export(one.engine, one.folder, request)
    folder = check_weights(weights)
    assert {path.name for path in folder.iterdir()} == {
        *("adapter_config.json", "adapter_model.safetensors", "manifest.json")
    }
    assert adapter_of(folder) == base
    want = one.said(one.model.eval())
    by_peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(one.folder), str(folder)).eval()
    torch.testing.assert_close(one.said(by_peft), want, atol=1e-5, rtol=1e-5)
    merge(folder, tmp_path / "merged")
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(one.said(whole), want, atol=1e-4, rtol=1e-4)
    assert (tmp_path / "merged" / "tokenizer.json").is_file()
    with pytest.raises(ArtifactError, match="whole model and no adapter"):
        merge(check_weights(base), tmp_path / "twice")
    other = shutil.copytree(check_weights(base), tmp_path / "v0000")
    (other / "config.json").write_text((other / "config.json").read_text() + " ")
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest[ADAPTER_OF]["uri"] = f"file://{other}"
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="is not the file that its manifest lists"):
        merge(folder, tmp_path / "on another base")


def test_an_adapter_begins_as_its_base_and_from_its_seed(make: Make, base_folder: Path) -> None:
    one, again = make(), make()
    torch.testing.assert_close(one.said(one.model.eval()), one.said(one.plain({})), atol=0, rtol=0)
    ours, theirs = (dict(each.engine.trained_fp32()) for each in (one, again))
    assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items())
    other = load_student(base_folder, LORA, seed=2)
    assert any(not torch.equal(weight, ours[name]) for name, weight in other.named_parameters() if name in ours)


def adapter_bytes(run: TinyRun, version: int) -> dict[str, bytes]:
    folder = run.folder / "weights" / f"v{version:04d}"
    return {name: (folder / name).read_bytes() for name in ("adapter_model.safetensors", "adapter_config.json")}


@pytest.mark.parametrize(
    ("stage", "precision", "every"), [(0, "fp32", 1), (0, "fp32", 9), (3, "fp32", 1), (2, "bf16", 1)]
)
def test_law_6_an_adapter_that_goes_on_is_that_of_an_unbroken_run(
    tmp_path: Path, base: Weights, device: torch.device, stage: int, precision: str, every: int
) -> None:
    """From its checkpoint, or where there is none yet, from the base: its first numbers are those of the first step."""
    settings = LORA.model_copy(update={"zero_stage": stage, "precision": precision, "checkpoint_every": every})
    whole, broken = (TinyRun(tmp_path / name, base, settings) for name in ("whole", "broken"))
    unbroken = None
    for version in range(3):
        requests = [run.request(version, seed=version) for run in (whole, broken)]
        for run, request in zip((whole, broken), requests, strict=True):
            run.spool.submit(request)
        unbroken = unbroken or Run(whole.spool, requests[0], device)
        unbroken.apply(requests[0])
        train(broken.spool, 0.0, device)  # loads anew, does one step, ends
    assert adapter_bytes(whole, 3) == adapter_bytes(broken, 3)


def test_a_checkpoint_holds_no_weight_of_the_base(tmp_path: Path, base: Weights, device: torch.device) -> None:
    """Not by the second name of a tied embedding either."""
    run = TinyRun(tmp_path, base, LORA)
    run.spool.submit(run.request(0))
    train(run.spool, 0.0, device)
    saved = run.spool.checkpoint(1) / "deepspeed" / "mp_rank_00_model_states.pt"
    names = torch.load(saved, weights_only=False)["module"].keys()
    assert names
    assert all("lora_" in name for name in names)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "teacher"), [(0, "ema"), (2, "ema"), (3, "ema"), (3, "trust_region")])
def test_two_ranks_train_the_adapter_that_one_does_and_resume(
    tmp_path: Path, base: Weights, stage: int, teacher: str
) -> None:
    changes = {"zero_stage": stage, "lr": 1e-3, "micro_tokens": 90, "teacher_weights": teacher}
    runs = []
    for nproc in (1, 2):
        folder = tmp_path / str(nproc)
        folder.mkdir()
        run = TinyRun(folder, base, LORA.model_copy(update=changes))
        run.train(run.request(0), nproc=nproc)
        run.train(run.request(1), nproc=nproc)
        runs.append(run)
    for version in (0, 1):
        left, right = (run.spool.result(version) for run in runs)
        assert left is not None
        assert right is not None
        for name in ("loss", "grad_norm", "entropy", "teacher_entropy"):
            assert right.metrics[name] == pytest.approx(left.metrics[name], rel=1e-3), name
