"""One training step: forward, loss, backward and optimizer over all mini-batches of a batch.

Invariants:
- The student runs on its own prompt, the teacher on its own; both on the same completion.
- The teacher moves once, at the end, and only when an optimizer step had a finite gradient.
- Nothing moves when the learning rate is zero or nothing is trained on: neither weights, nor the optimizer's
  moments, nor the teacher.
"""

# ruff: noqa: N815 -- axis names on tensors, in fields too
from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pmd.services.common.options import TrainSettings
from pmd.services.trainer.training.batch import Sample, TrainBatch
from pmd.services.trainer.training.engine import Engine
from pmd.services.trainer.training.head import Voice, measured, score_rows
from pmd.services.trainer.training.objectives import LOSSES, Scores, Tokens
from pmd.services.trainer.training.objectives.distill import clipped_ratio, confidences
from pmd.services.trainer.training.objectives.entropy import entropy
from pmd.services.trainer.training.objectives.reference import reference_kl
from pmd.services.trainer.training.packing import MicroBatch, filler, pack, plan
from pmd.services.trainer.training.prefix import shares_prompts
from pmd.services.trainer.training.teacher import Teacher


class Stopwatch:
    """Seconds spent in each part of a step."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._device = device

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time of the block to `name`; on a GPU, the time until its work is done."""
        began = time.perf_counter()
        yield
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.seconds[name] += time.perf_counter() - began


SUMS = ("loss", "tokens", "mismatch_kl", "entropy", "reference_kl", "taught", "teacher_entropy")
"""What is added up over micro-batches and ranks; all but the loss and the counts themselves are then divided by tokens,
teacher_entropy by those that a teacher teaches."""


def divergence(old_N: Tensor, sampler_N: Tensor) -> Tensor:
    """The k3 estimator of KL(sampler‖trainer) at each sampled token, in nats; 0 where both agree."""
    gap_N = old_N - sampler_N
    return gap_N.exp() - 1 - gap_N


class Gaps:
    """By how much sampler and trainer disagree about the tokens of each problem of a batch."""

    def __init__(self, batch: TrainBatch, device: torch.device) -> None:
        problems = dict.fromkeys(sample.problem_id for sample in batch.samples)
        self._place = {problem: i for i, problem in enumerate(problems)}
        self._sums_P2 = torch.zeros(len(problems), 2, dtype=torch.float64, device=device)  # of nats, and of tokens

    @torch.no_grad()
    def add(self, micro: MicroBatch, old_N: Tensor) -> None:
        """Add the tokens of a micro-batch; a filler has none."""
        places = [self._place[sample.problem_id] for sample in micro.samples for _ in sample.completion_ids]
        if places:
            nats_N = divergence(old_N, micro.sampler_N).double()
            index_N = torch.tensor(places, device=nats_N.device)
            self._sums_P2.index_add_(0, index_N, torch.stack([nats_N, torch.ones_like(nats_N)], dim=1))

    def by_problem(self, engine: Engine) -> dict[str, float]:
        """Nats a token by problem, over all ranks; what is not finite or has no token is left out."""
        sums = engine.total(self._sums_P2.flatten())
        means = {p: sums[2 * i] / sums[2 * i + 1] for p, i in self._place.items() if sums[2 * i + 1]}
        return {problem: mean for problem, mean in means.items() if math.isfinite(mean)}


Floats = npt.NDArray[np.float32]


class Taught:
    """What the teacher held of each token that it taught."""

    def __init__(self) -> None:
        self._parts: list[tuple[tuple[Sample, ...], Tensor]] = []

    def add(self, micro: MicroBatch, logps_N: Tensor) -> None:
        """Add the tokens of a micro-batch; a filler has none."""
        if micro.samples:
            self._parts.append((micro.samples, logps_N))

    def by_rollout(self, engine: Engine) -> dict[str, Floats]:
        """Log-probabilities in nats of a rollout's tokens, on rank 0 those of all ranks; elsewhere none."""
        mine: dict[str, Floats] = {}
        for samples, logps_N in self._parts:
            ends = np.cumsum([len(sample.completion_ids) for sample in samples])
            of_each = np.split(logps_N.cpu().numpy(), ends[:-1])
            mine |= {sample.rollout_id: logps for sample, logps in zip(samples, of_each, strict=True)}
        return {name: logps for part in engine.gather(mine) for name, logps in part.items()}


@dataclass(frozen=True)
class Given:
    """What is known of a micro-batch's tokens before its forward pass."""

    old_N: Tensor | None
    """Log-probabilities at the start of the training step; None where this pass gives them."""
    confidence_N: Tensor | None
    """What distillation counts them for; None: all alike."""


class Updater:
    """Applies training steps to one student."""

    def __init__(self, engine: Engine, teacher: Teacher | None) -> None:
        self._engine = engine
        self._teacher = teacher
        self._share = shares_prompts(engine.model)
        self.gaps: dict[str, float] = {}
        """The newest step's `mismatch_kl` by problem; of those that are trained on."""
        self.taught: dict[str, Floats] = {}
        """By rollout, the log-probabilities that the newest step's teacher gave its tokens; on rank 0."""

    def step(self, batch: TrainBatch, settings: TrainSettings, lr: float, watch: Stopwatch) -> dict[str, float]:
        """Update the student on `batch` at learning rate `lr` (already warmed up and scaled).

        Returns:
            loss (mean over mini-batches), grad_norm (largest, before clipping), tokens, sequences, masked,
            mismatch_kl (k3 estimator of KL(sampler‖trainer), nats per token), entropy, teacher_entropy (of what a
            teacher teaches) and reference_kl (nats per token), skipped (optimizer steps whose gradient was not
            finite). What there is none of, and what is not finite, is left out: JSON can't write it, and `skipped`
            tells.
        """
        shares = [
            self._micro_batches(samples, settings, watch) for samples in batch.mini_batches(settings.mini_batches)
        ]
        mini_batches = max(len(shares), 1)
        shares = [micro_batches for micro_batches in shares if micro_batches]
        with watch.part("student"):
            # Of later mini-batches, before the first optimizer step; the first one's are what its own forward gives.
            old_logps = [[self.logps(micro, settings) for micro in share] for share in shares[1:]]
        sums = torch.zeros(len(SUMS), dtype=torch.float64, device=self._engine.device)
        gaps, taught = Gaps(batch, self._engine.device), Taught()
        norms: list[float] = []
        applied = 0
        for i, micro_batches in enumerate(shares):
            counts = self._confidences(micro_batches, settings, watch)
            for j, micro_batch in enumerate(micro_batches):
                given = Given(old_logps[i - 1][j] if i else None, counts[j] if counts else None)
                last = j == len(micro_batches) - 1
                sums += self._accumulate(
                    micro_batch, given, settings, gaps, taught, learn=lr > 0, last=last, watch=watch
                )
            if lr > 0:
                with watch.part("optimizer"):
                    norm, finite = self._engine.step(lr)
                norms.append(norm)
                applied += finite
        if applied and self._teacher:
            with watch.part("optimizer"):
                self._teacher.follow(self._engine, settings.teacher_ema)
        total = dict(zip(SUMS, self._engine.total(sums), strict=True))
        self.gaps = gaps.by_problem(self._engine)
        self.taught = taught.by_rollout(self._engine)
        tokens, taught_tokens = max(total.pop("tokens"), 1.0), total.pop("taught")
        teacher_entropy = total.pop("teacher_entropy")
        if not settings.reference_kl:
            del total["reference_kl"]
        metrics = {name: value / tokens for name, value in total.items()} | {
            "loss": total["loss"] / mini_batches,
            "grad_norm": max(filter(math.isfinite, norms), default=0.0),
            "tokens": float(batch.tokens),
            "sequences": float(len(batch.samples)),
            "masked": float(batch.masked),
            "skipped": float(len(norms) - applied),
        }
        if taught_tokens:
            metrics["teacher_entropy"] = teacher_entropy / taught_tokens
        return {name: value for name, value in metrics.items() if math.isfinite(value)}

    def _micro_batches(
        self, samples: tuple[Sample, ...], settings: TrainSettings, watch: Stopwatch
    ) -> list[MicroBatch]:
        """This rank's micro-batches of one mini-batch; empty on all ranks when nothing in it is trained."""
        counted = [s.trained or not s.weight for s in samples]
        weights = LOSSES[settings.loss].weights([len(s.completion_ids) for s in samples], counted)
        trained = [(s, w * s.weight) for s, w in zip(samples, weights, strict=True) if s.trained]
        # Those that a teacher teaches and those that none does go apart: a forward pass of it is for all of its rows.
        taught = [each for each in trained if each[0].teacher_ids]
        alone = [each for each in trained if not each[0].teacher_ids]
        with watch.part("load"):
            return [*self._packed(taught, settings, teacher=True), *self._packed(alone, settings, teacher=False)]

    def _packed(
        self, samples: Sequence[tuple[Sample, float]], settings: TrainSettings, *, teacher: bool
    ) -> list[MicroBatch]:
        """This rank's micro-batches of samples and the weights of their tokens; as many on all ranks."""
        lengths = [
            (
                len(s.prompt_ids) + len(s.completion_ids),
                len(s.teacher_ids) + len(s.completion_ids) * teacher,
            )
            for s, _ in samples
        ]
        engine = self._engine
        cut = plan(lengths, settings.micro_tokens, engine.world)[engine.rank :: engine.world]
        return [
            pack([samples[i][0] for i in ids], [samples[i][1] for i in ids], engine.device, share=self._share)
            if ids
            else filler(engine.device, teacher)
            for ids in cut
        ]

    @torch.no_grad()
    def logps(self, micro: MicroBatch, settings: TrainSettings, *, reference: bool = False) -> Tensor:
        """Log-probabilities of the sampled tokens on the student's prompt, [N], in nats; no gradient.

        Args:
            reference: by the teacher's weights, else by the student's.
        """

        def score(logits_NV: Tensor, here: slice) -> Tensor:
            return Scores.of(logits_NV).logps(micro.targets_N[here])

        engine = self._engine
        if reference:
            assert self._teacher is not None  # noqa: S101 -- a run keeps one from its start (`job.Run`)
            return self._teacher.measured(engine, micro.student, score, settings)
        return measured(engine.model, micro.student, score, settings.temperature, engine.module)

    @torch.no_grad()
    def _confidences(
        self, micro_batches: Sequence[MicroBatch], settings: TrainSettings, watch: Stopwatch
    ) -> list[Tensor | None]:
        """What distillation counts each token of a mini-batch for, by its micro-batches; empty where all count alike.

        The teacher reads all of them once before: what a token counts for depends on all others.
        """
        beta, teacher = settings.teacher_entropy_beta, self._teacher
        if not beta or teacher is None or not LOSSES[settings.loss].reads_teacher:
            return []

        def score(logits_NV: Tensor, _: slice) -> Tensor:
            return confidences(Scores.of(logits_NV).entropy(), beta)

        with watch.part("teacher"):
            found = [
                None if micro.teacher is None else teacher.measured(self._engine, micro.teacher, score, settings)
                for micro in micro_batches
            ]
        sums = torch.zeros(2, dtype=torch.float64, device=self._engine.device)
        for micro, each_N in zip(micro_batches, found, strict=True):
            if each_N is not None:
                counted_N = micro.weights_N != 0
                sums += torch.stack([(each_N * counted_N).sum(), counted_N.sum()]).double()
        total, tokens = self._engine.total(sums)
        return [None if each_N is None else each_N * (tokens / total) for each_N in found]

    def _accumulate(
        self,
        micro: MicroBatch,
        given: Given,
        settings: TrainSettings,
        gaps: Gaps,
        taught: Taught,
        *,
        learn: bool,
        last: bool,
        watch: Stopwatch,
    ) -> Tensor:
        """Add a micro-batch's gradient to the engine (if `learn`) and return its `SUMS`."""
        kind, engine = LOSSES[settings.loss], self._engine
        teacher: tuple[Voice, ...] = ()
        if micro.teacher is not None and self._teacher is not None:
            with watch.part("teacher"):
                teacher = self._teacher.voices(engine, micro.teacher, settings)
        reference_N: Tensor | None = None
        if settings.reference_kl:
            with watch.part("teacher"):
                reference_N = self.logps(micro, settings, reference=True)
        begin_N, loss_N, entropy_N, teacher_N, kl_N, said_N = torch.zeros(6, micro.tokens, device=engine.device)

        def score(student_NV: Tensor, teacher_NV: Tensor | None, here: slice) -> Tensor:
            """The weighted losses of these tokens; what else is measured of them is written down."""
            targets = micro.targets_N[here]
            ours, theirs = Scores.of(student_NV), None if teacher_NV is None else Scores.of(teacher_NV)
            begin_N[here] = ours.logps(targets) if given.old_N is None else given.old_N[here]
            entropy_N[here] = ours.entropy()
            if theirs is not None:
                teacher_N[here], said_N[here] = theirs.entropy(), theirs.logps(targets)
            tokens = Tokens(
                student=ours,
                teacher=theirs,
                targets_N=targets,
                old_N=begin_N[here],
                advantages_N=micro.advantages_N[here],
                reward_N=micro.reward_N[here],
                confidence_N=None if given.confidence_N is None else given.confidence_N[here],
            )
            each = kind.of_tokens(tokens, settings)
            if kind.on_policy:
                each = each * clipped_ratio(begin_N[here], micro.sampler_N[here], settings.tis_clip)
            if reference_N is not None:
                distance = reference_kl(ours.sampled(targets), reference_N[here])
                kl_N[here] = distance.detach()
                each = each + settings.reference_kl * distance
            if settings.entropy_bonus:
                each = each - settings.entropy_bonus * entropy(ours)
            each = each * micro.weights_N[here]
            loss_N[here] = each.detach()
            return each.sum()

        with watch.part("student"), torch.set_grad_enabled(learn):
            loss = score_rows(
                engine.model,
                micro.student,
                score,
                temperature=settings.temperature,
                teacher=teacher,
                forward=engine.module,
            )
            if learn:
                engine.backward(loss, last=last)
        gaps.add(micro, begin_N)
        if teacher:
            taught.add(micro, said_N)
        counted_N = micro.weights_N != 0  # a filler's row is none of the batch's
        one_N = torch.ones_like(begin_N)
        taught_N = one_N if teacher else torch.zeros_like(one_N)
        values = (one_N, divergence(begin_N, micro.sampler_N), entropy_N, kl_N, taught_N, teacher_N)
        # Left on its device, so that a GPU need not be waited for.
        return torch.stack([loss_N.sum(), *((values_N * counted_N).sum() for values_N in values)]).double()
