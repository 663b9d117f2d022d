"""What a step's memory jobs cost by the size of the bank: `record`, `reflect`, `abstract` and `retrieve`.

    python -m bench.memory_jobs --sizes 1000 10000 100000

Each size has a process of its own. A bank of that many problems, in families of 25 that ask the like, is written with
two notes and two attempts for each; the first step, which indexes and clusters all of it, is shown apart, and so are
the abstractions that look at the rest of its clusters, 256 at a time. Then each step takes 32 problems that nothing
else in the bench took, half of them new to the bank, with 8 attempts each, and the medians of its jobs are shown:
milliseconds that passed, and after the stroke those that processors worked. A language model is what a step waits for:
here it answers at once. Memory is the most that the process held. `--index weaviate` takes the server at
PMD_WEAVIATE_URL, PMD_WEAVIATE_GRPC and PMD_WEAVIATE_API_KEY; what that works is not counted.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import SecretStr

from bench.memory import Clock
from pmd.services.common.artifacts import write_problems, write_table
from pmd.services.common.columns import ROLLOUTS, VERDICTS
from pmd.services.common.jobs import JobContext
from pmd.services.common.options import (
    AbstractSettings,
    ContextSettings,
    EvidenceKind,
    PromptFiles,
    QualitySettings,
    ReflectSettings,
)
from pmd.services.common.requests import AbstractRequest, Generator, RecordRequest, ReflectRequest, RetrieveRequest
from pmd.services.common.wire import Message, Problem, Ref
from pmd.services.memory.index.embedders import EmbedderSpec
from pmd.services.memory.index.search import Remote, Search
from pmd.services.memory.index.vectors import VectorFile
from pmd.services.memory.ledger import Item, Ledger, Transaction, clusters
from pmd.services.memory.retrieve.contexts import retrieve
from pmd.services.memory.write.abstract import abstract
from pmd.services.memory.write.generator import Answers
from pmd.services.memory.write.record import record
from pmd.services.memory.write.reflect import reflect

BATCH = 32
ROLLOUTS_EACH = 8
FAMILY = 25
PORTION = 2000
WORDS = np.array([f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("n", "rd", "st", "lm", "ck", "")])
OUTCOME = {True: "passed", False: "failed"}
JOBS = ("record", "reflect", "abstract", "retrieve")
PROMPTS = PromptFiles(
    teacher="{{ problem }}\n{{ strategies }}\n{{ lessons }}\n{{ behaviors }}\n{{ solution }}",
    reflect="{{ problem }}\n{{ successes }}\n{{ failures }}",
    abstract="{% for i in insights %}{{ i.strategies | join('; ') }}\n{% endfor %}",
)


def said(*key: int, count: int) -> str:
    """As many words, always the same for a key."""
    return " ".join(np.random.default_rng(key).choice(WORDS, count))


def problem(n: int) -> Problem:
    """The nth problem: the words of its family, and some of its own."""
    question = f"{said(n // FAMILY, 1, count=14)} number {n}: {said(n, 2, count=6)}?"
    verifier = {"kind": "choice", "options": [said(n, 3, count=3), said(n, 4, count=3)], "answer": "A"}
    return Problem(id=f"p{n:06}", messages=[Message(role="user", content=question)], verifier=verifier)


class Model:
    """Answers at once, each time with other words."""

    def __init__(self) -> None:
        self._answers = 0

    def notes(self, prompts: Sequence[str], job: JobContext, parse: Callable[[str], Any], schema: Any) -> Answers[Any]:  # noqa: ARG002
        found = []
        kinds = schema["properties"]
        for _ in prompts:
            self._answers += 1
            found.append(parse(json.dumps({kind: [said(self._answers, 5, count=12)] for kind in kinds})))
        return Answers(found, asked=len(prompts))


def server(embedder_id: str) -> Remote:
    """The Weaviate server that the environment names."""
    from pmd.services.memory.index.weaviate import WeaviateIndex  # noqa: PLC0415 -- an extra

    where = [os.environ[f"PMD_WEAVIATE_{name}"] for name in ("URL", "GRPC", "API_KEY")]
    return WeaviateIndex(where[0], where[1], where[2], embedder_id)


class Bank:
    """A bank and the jobs of its steps."""

    def __init__(self, folder: Path, size: int, evidence: EvidenceKind, index: str) -> None:
        self.folder, self.size, self.evidence = folder, size, evidence
        self.ledger = Ledger(f"sqlite:///{folder / 'ledger.db'}")
        vectors = VectorFile(folder / "vectors.db")
        make = server if index == "weaviate" else lambda _: None
        self.search = Search(self.ledger, vectors, EmbedderSpec(), SecretStr(""), make)
        self.model = Model()
        self.problems = [problem(n) for n in range(size + size // 2)]
        self.ref = write_problems(f"file://{folder}/problems.parquet", self.problems)
        for start in range(0, size, PORTION):
            self._fill(range(start, min(start + PORTION, size)))

    def _fill(self, numbers: range) -> None:
        def item(n: int, kind: Any, text: str, **facts: Any) -> Item:
            level: Any = "experience" if kind == "attempt" else "insight"
            return Item(level, kind, self.problems[n].id, text, step=0, policy_version=0, facts=facts)

        def attempt(n: int, *, passed: bool) -> Item:
            facts = {"rollout_id": f"0:{n}#{passed:d}", "passed": passed, "outcome": OUTCOME[passed], "feedback": ""}
            return item(n, "attempt", said(n, 7, passed, count=30), **facts)

        def change(tx: Transaction) -> None:
            tx.put_problems({self.problems[n].id: self.problems[n].model_dump_json() for n in numbers})
            tx.write([item(n, kind, said(n, 6, count=15)) for n in numbers for kind in ("strategy", "lesson")], "run@0")
            tx.write([attempt(n, passed=passed) for n in numbers for passed in (False, True)], "record")

        self.ledger.apply("bench", f"fill {numbers.start}", change)

    def batch(self, step: int) -> tuple[Ref, Ref, list[str]]:
        """A step's rollouts and verdicts: half of its problems the bank knows, half are new to it."""
        half = BATCH // 2
        known = range(step * half, (step + 1) * half)
        ids = [self.problems[n].id for n in (*known, *(self.size + k for k in known))]
        rollouts, verdicts = [], []
        for pid in ids:
            for sample in range(ROLLOUTS_EACH):
                head = {"rollout_id": f"{pid}#{sample}", "problem_id": pid, "split": "train"}
                rollouts.append(
                    head
                    | {"prompt_id": pid, "sample": sample, "prompt_ids": [1], "token_ids": [2], "logprobs": [-0.5]}
                    | {"text": said(step, sample, int(pid[1:]), count=40), "finish_reason": "stop"}
                    | {"policy_version": step - 1}
                )
                passed = sample % 2 == 1
                verdicts.append(
                    head
                    | {"outcome": OUTCOME[passed], "reward": float(passed), "feedback": ""}
                    | {"sandbox_tier": "", "cpu_ms": 0.0}
                )
        base = f"file://{self.folder}/s{step}"
        return (
            write_table(f"{base}/rollouts.parquet", rollouts, ROLLOUTS),
            write_table(f"{base}/verdicts.parquet", verdicts, VERDICTS),
            ids,
        )

    def step(self, step: int, clock: Clock, store: str) -> None:
        """The jobs of one step."""
        rollouts, verdicts, ids = self.batch(step)
        how: dict[str, Any] = {"bank": "bench", "step": step, "quality": QualitySettings(hold_out=0.1, quarantine=True)}
        writes = how | {"policy_version": step, "generator": Generator(model="m"), "prompts": PROMPTS}
        believes = {"evidence": self.evidence}
        batch: dict[str, Any] = {"rollouts": rollouts, "verdicts": verdicts, "problems": self.ref}
        told = {"outcomes": verdicts, "outcomes_step": step - 1}
        reflected = ReflectRequest(**writes, **believes, problem_ids=ids, settings=ReflectSettings())
        retrieved = RetrieveRequest(
            **how,
            **batch,
            **believes,
            settings=ContextSettings(),
            prompts=PROMPTS,
            out=f"file://{self.folder}/s{step}/contexts.parquet",
        )
        model: Any = self.model
        jobs: dict[str, Callable[[JobContext], object]] = {
            "record": lambda job: record(self.ledger, RecordRequest(**how, **batch, **told), job),
            "reflect": lambda job: reflect(self.ledger, model, reflected, job),
            "abstract": lambda job: self.abstract(step, job),
            "retrieve": lambda job: retrieve(self.ledger, self.search, retrieved, job),
        }
        for name, run in jobs.items():
            with clock.measure(store, name):
                run(JobContext(f"s{step}.{name}", threading.Event()))

    def abstract(self, step: int, job: JobContext) -> None:
        """One abstraction."""
        request = AbstractRequest(
            bank="bench",
            step=step,
            policy_version=step,
            quality=QualitySettings(hold_out=0.1, quarantine=True),
            generator=Generator(model="m"),
            prompts=PROMPTS,
            evidence=self.evidence,
            settings=AbstractSettings(),
        )
        model: Any = self.model
        abstract(self.ledger, self.search.vectors, model, request, job)

    def behind(self) -> bool:
        """Whether there are clusters that no abstraction has looked at yet."""
        with self.ledger.read() as db:
            return bool(clusters.behind(db, "bench", 1))


def measure(size: int, steps: int, evidence: EvidenceKind, index: str) -> dict[str, Any]:
    """Fill a bank, and run steps on it."""
    folder = Path(tempfile.mkdtemp(prefix="bench-memory-jobs-"))
    try:
        clock = Clock()
        began = time.perf_counter()
        bank = Bank(folder, size, evidence, index)
        filled = time.perf_counter() - began
        bank.step(1, clock, "first")
        further = 0
        while evidence == "effect" and bank.behind():
            further += 1
            with clock.measure("then", "abstract, behind"):
                bank.abstract(1, JobContext(f"behind{further}", threading.Event()))
        for step in range(2, 2 + steps):
            bank.step(step, clock, "then")
        bank.search.close()
        megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return {
            "filled": f"{filled:.0f} s",
            **{f"first {job}": clock.both("first", job) for job in JOBS},
            **({f"{further} x abstract": clock.both("then", "abstract, behind")} if further else {}),
            **{job: clock.both("then", job) for job in JOBS},
            "most memory": f"{megabytes:.0f} MB",
            "took": {job: statistics.median(clock.worked["then", job]) for job in JOBS},
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--evidence", choices=["effect", "terms"], default="effect")
    parser.add_argument("--index", choices=["exact", "weaviate"], default="exact")
    given = parser.parse_args()
    fresh = multiprocessing.get_context("spawn")
    smallest: dict[str, float] = {}
    for size in given.sizes:
        with fresh.Pool(1) as pool:
            found = pool.apply(measure, (size, given.steps, given.evidence, given.index))
        took = found.pop("took")
        smallest = smallest or took
        print(f"\n{size:,} problems; median of {given.steps} steps, ms / processor ms; these by the smallest bank's")
        for name, value in found.items():
            ratio = f"{took[name] / smallest[name]:10.2f}" if name in took else ""
            print(f"{name:20}{value:>20}{ratio}", flush=True)


if __name__ == "__main__":
    main()
