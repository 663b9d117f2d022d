"""One training step: forward, loss, backward and optimizer over all mini-batches of a batch.

Invariants:
- The student runs on its own prompt, the teacher on its own; both on the same completion.
- The teacher moves once, at the end, and only when an optimizer step had a finite gradient.
- Nothing moves when the learning rate is zero or nothing is trained on: neither weights, nor the optimizer's
  moments, nor the teacher.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from pmd.services.common.options import TrainSettings
from pmd.services.trainer.training.batch import Sample, TrainBatch
from pmd.services.trainer.training.engine import Engine
from pmd.services.trainer.training.model import completion_logits
from pmd.services.trainer.training.objectives import LOSSES, Tokens
from pmd.services.trainer.training.objectives.distill import clipped_ratio, entropy, token_logps
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


SUMS = ("loss", "tokens", "mismatch_kl", "entropy", "teacher_entropy")
"""What is added up over micro-batches and ranks; all but the loss and the count itself are then divided by tokens."""


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
        places = [self._place[problem] for problem, tokens in micro.problems for _ in range(tokens)]
        if places:
            nats_N = divergence(old_N, micro.sampler_N).double()
            index_N = torch.tensor(places, device=nats_N.device)
            self._sums_P2.index_add_(0, index_N, torch.stack([nats_N, torch.ones_like(nats_N)], dim=1))

    def by_problem(self, engine: Engine) -> dict[str, float]:
        """Nats a token by problem, over all ranks; what is not finite or has no token is left out."""
        sums = engine.total(self._sums_P2.flatten())
        means = {p: sums[2 * i] / sums[2 * i + 1] for p, i in self._place.items() if sums[2 * i + 1]}
        return {problem: mean for problem, mean in means.items() if math.isfinite(mean)}


class Updater:
    """Applies training steps to one student."""

    def __init__(self, engine: Engine, teacher: Teacher | None) -> None:
        self._engine = engine
        self._teacher = teacher
        self._share = shares_prompts(engine.model)
        self.gaps: dict[str, float] = {}
        """The newest step's `mismatch_kl` by problem; of those that are trained on."""

    def step(self, batch: TrainBatch, settings: TrainSettings, lr: float, watch: Stopwatch) -> dict[str, float]:
        """Update the student on `batch` at learning rate `lr` (already warmed up and scaled).

        Returns:
            loss (mean over mini-batches), grad_norm (largest, before clipping), tokens, sequences, masked,
            mismatch_kl (k3 estimator of KL(sampler‖trainer), nats per token), entropy and teacher_entropy (nats
            per token), skipped (optimizer steps whose gradient was not finite). What is not finite is left out: JSON
            can't write it, and `skipped` tells.
        """
        shares = [
            self._micro_batches(samples, settings, watch) for samples in batch.mini_batches(settings.mini_batches)
        ]
        mini_batches = max(len(shares), 1)
        shares = [micro_batches for micro_batches in shares if micro_batches]
        old_logps = self._old_logps(shares[1:], settings, watch)
        sums = torch.zeros(len(SUMS), dtype=torch.float64, device=self._engine.device)
        gaps = Gaps(batch, self._engine.device)
        norms: list[float] = []
        applied = 0
        for i, micro_batches in enumerate(shares):
            for j, micro_batch in enumerate(micro_batches):
                old_N = old_logps[i - 1][j] if i else None
                last = j == len(micro_batches) - 1
                sums += self._accumulate(micro_batch, old_N, settings, gaps, learn=lr > 0, last=last, watch=watch)
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
        tokens = max(total.pop("tokens"), 1.0)
        if self._teacher is None:
            del total["teacher_entropy"]
        metrics = {name: value / tokens for name, value in total.items()} | {
            "loss": total["loss"] / mini_batches,
            "grad_norm": max(filter(math.isfinite, norms), default=0.0),
            "tokens": float(batch.tokens),
            "sequences": float(len(batch.samples)),
            "masked": float(batch.masked),
            "skipped": float(len(norms) - applied),
        }
        return {name: value for name, value in metrics.items() if math.isfinite(value)}

    def _micro_batches(
        self, samples: tuple[Sample, ...], settings: TrainSettings, watch: Stopwatch
    ) -> list[MicroBatch]:
        """This rank's micro-batches of one mini-batch; empty on all ranks when nothing in it is trained."""
        weights = LOSSES[settings.loss].weights([len(s.completion_ids) for s in samples], [s.trained for s in samples])
        trained = [(s, w) for s, w in zip(samples, weights, strict=True) if s.trained]
        lengths = [
            (
                len(s.prompt_ids) + len(s.completion_ids),
                len(s.teacher_ids) + len(s.completion_ids) * bool(s.teacher_ids),
            )
            for s, _ in trained
        ]
        engine = self._engine
        cut = plan(lengths, settings.micro_tokens, engine.world)[engine.rank :: engine.world]
        with watch.part("load"):
            return [
                pack([trained[i][0] for i in ids], [trained[i][1] for i in ids], engine.device, share=self._share)
                if ids
                else filler(engine.device, self._teacher is not None)
                for ids in cut
            ]

    def _student_logits(self, micro: MicroBatch, settings: TrainSettings) -> Tensor:
        return completion_logits(self._engine.model, micro.student, settings.temperature, self._engine.module)

    @torch.no_grad()
    def _old_logps(
        self, shares: list[list[MicroBatch]], settings: TrainSettings, watch: Stopwatch
    ) -> list[list[Tensor]]:
        """Log-probabilities of the sampled tokens of later mini-batches, before the first optimizer step.

        Those of the first mini-batch are what its training forward gives: no step lies between.
        """
        with watch.part("student"):
            return [
                [token_logps(self._student_logits(m, settings), m.targets_N) for m in micro_batches]
                for micro_batches in shares
            ]

    def _accumulate(
        self,
        micro: MicroBatch,
        old_N: Tensor | None,
        settings: TrainSettings,
        gaps: Gaps,
        *,
        learn: bool,
        last: bool,
        watch: Stopwatch,
    ) -> Tensor:
        """Add a micro-batch's gradient to the engine (if `learn`) and return its `SUMS`."""
        kind = LOSSES[settings.loss]
        teacher_NV = None
        if micro.teacher is not None and self._teacher is not None:
            with watch.part("teacher"), torch.no_grad():
                teacher_NV = completion_logits(self._teacher.model, micro.teacher, settings.temperature)
        with watch.part("student"), torch.set_grad_enabled(learn):
            student_NV = self._student_logits(micro, settings)
            with torch.set_grad_enabled(learn and not kind.reads_teacher):
                now_N = token_logps(student_NV, micro.targets_N)
            old_N = now_N.detach() if old_N is None else old_N
            gaps.add(micro, old_N)
            loss_N = kind.of_tokens(Tokens(student_NV, teacher_NV, now_N, old_N, micro.advantages_N), settings)
            loss = (loss_N * clipped_ratio(old_N, micro.sampler_N, settings.tis_clip) * micro.weights_N).sum()
            if learn:
                self._engine.backward(loss, last=last)
            return self._sums(micro, loss, old_N, student_NV, teacher_NV)

    @staticmethod
    @torch.no_grad()
    def _sums(micro: MicroBatch, loss: Tensor, old_N: Tensor, student_NV: Tensor, teacher_NV: Tensor | None) -> Tensor:
        """The `SUMS` of a micro-batch; left on its device, so that a GPU need not be waited for."""
        values_N = [
            torch.ones_like(old_N),
            divergence(old_N, micro.sampler_N),
            entropy(student_NV),
            torch.zeros_like(old_N) if teacher_NV is None else entropy(teacher_NV),
        ]
        counted_N = micro.weights_N != 0  # a filler's row is none of the batch's
        return torch.stack([loss, *((values * counted_N).sum() for values in values_N)]).double()
