"""A training step of `services/trainer`: a contender of `bench.trainer`, which starts it."""

from __future__ import annotations

from dataclasses import replace

import torch

from bench.trainer import CLIP, EMA, LR, MINI_BATCHES, TOP_K, draw, now, read_arguments, report
from pmd.services.common.options import TrainSettings
from pmd.services.trainer.training.batch import Sample, TrainBatch
from pmd.services.trainer.training.engine import Engine, start_ranks
from pmd.services.trainer.training.model import load_model
from pmd.services.trainer.training.packing import pack
from pmd.services.trainer.training.teacher import Teacher
from pmd.services.trainer.training.update import Stopwatch, Updater


def main() -> None:
    """Train and report."""
    arguments = read_arguments()
    device = start_ranks()
    drawn = draw(arguments).samples
    model = load_model(arguments.model, torch.float32)
    longest = max(len(s.teacher_ids) + len(s.completion_ids) for s in drawn)
    settings = TrainSettings(
        loss="distill",
        lr=LR,
        weight_decay=0.0,
        mini_batches=MINI_BATCHES,
        micro_tokens=longest * arguments.micro,
        top_k=TOP_K if arguments.vocabulary else None,
        teacher_ema=EMA,
        is_clip=CLIP,
    )
    teacher = Teacher(model, settings, device)
    updater = Updater(Engine(model, settings, device), teacher)
    known: list[Sample] = []  # with the sampler's log-probs, by the model that is trained
    for at in range(0, len(drawn), arguments.micro):
        some = [replace(s, sampler_logps=(0.0,) * len(s.completion_ids)) for s in drawn[at : at + arguments.micro]]
        logps = updater.logps(pack(some, [1.0] * len(some), device, share=False), settings)
        parts = logps.split([len(s.completion_ids) for s in some])
        known += [replace(s, sampler_logps=tuple(p.tolist())) for s, p in zip(some, parts, strict=True)]
    marks, losses = [now()], []
    for _ in range(arguments.steps):
        losses.append(updater.step(TrainBatch(tuple(known)), settings, LR, Stopwatch(device))["loss"])
        marks.append(now())
    report(marks, losses[0])


if __name__ == "__main__":
    main()
