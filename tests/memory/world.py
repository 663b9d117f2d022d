"""A bank filled through the real jobs; only the language model's words are given."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from pmd.services.common.artifacts import write_problems, write_table
from pmd.services.common.columns import ROLLOUTS, VERDICTS
from pmd.services.common.jobs import JobContext
from pmd.services.common.options import (
    AbstractSettings,
    ContextSettings,
    EvidenceKind,
    NotesFormat,
    PromptFiles,
    ReflectSettings,
)
from pmd.services.common.requests import (
    AbstractRequest,
    Generator,
    MemoryCounts,
    RecordRequest,
    ReflectRequest,
    RetrieveRequest,
    RetrieveResult,
    WriteResult,
)
from pmd.services.common.wire import Message, Problem, Ref
from pmd.services.memory.index.embedders import EmbedderSpec
from pmd.services.memory.index.search import Search
from pmd.services.memory.index.vectors import VectorFile
from pmd.services.memory.ledger import Ledger
from pmd.services.memory.retrieve.contexts import retrieve
from pmd.services.memory.write.abstract import abstract
from pmd.services.memory.write.generator import Answers
from pmd.services.memory.write.notes import InvalidNotes
from pmd.services.memory.write.record import record
from pmd.services.memory.write.reflect import reflect

PROMPTS = PromptFiles(
    teacher=(
        "{{ problem }}\n{% for s in strategies %}Strategy: {{ s }}\n{% endfor %}"
        "{% for s in lessons %}Lesson: {{ s }}\n{% endfor %}{% for s in behaviors %}Behavior: {{ s }}\n{% endfor %}"
        "{% for e in experiences %}{{ 'Passed' if e.passed else 'Failed' }}: {{ e.text }} {{ e.feedback }}\n"
        "{% endfor %}"
        "{% if solution %}Solution: {{ solution }}\n{% endif %}{% if feedback %}Feedback: {{ feedback }}\n{% endif %}"
    ),
    reflect="{{ mode }}|{{ problem }}|{{ successes }}|{{ failures }}|{{ strategies }}|{{ lessons }}",
    abstract="{% for i in insights %}{{ i.strategies | join('; ') }}\n{% endfor %}",
)


class Words:
    """The model at the edge: says what the test wants, remembers what it was asked."""

    def __init__(self, answer: Callable[[str], str]) -> None:
        self.answer = answer
        self.asked: list[str] = []

    def notes(
        self,
        prompts: Sequence[str],
        job: JobContext,  # noqa: ARG002
        parse: Callable[[str], Any],
        schema: Any = None,
        about: str = "",  # noqa: ARG002
    ) -> Answers[Any]:
        self.asked += prompts
        self.schema = schema
        told: Answers[Any] = Answers([None] * len(prompts), asked=len(prompts))
        for i, prompt in enumerate(prompts):
            said = self.answer(prompt)
            try:
                told.found[i] = parse(said)
            except InvalidNotes:
                told.unusable.append(said)
        return told


def code_problem(problem_id: str, question: str, split: str = "train") -> Problem:
    return Problem(
        id=problem_id,
        messages=[Message(role="user", content=question)],
        verifier={"kind": "code", "fn_name": "solve", "tests": [{"input": "[3, 1]", "output": "[1, 4, 1, 5]"}]},
        split=split,  # type: ignore[arg-type]
    )


OUTCOMES = {True: "passed", False: "failed", None: "infra_error"}


class World:
    """A bank, its problems, and the jobs on it."""

    def __init__(self, folder: Path, problems: list[Problem], url: str = "") -> None:
        self.folder = folder
        self.ledger = Ledger(url or f"sqlite:///{folder / 'ledger.db'}")
        self.search = Search(
            self.ledger, VectorFile(folder / "vectors.db"), EmbedderSpec(), SecretStr(""), lambda _: None
        )
        self.problems = {p.id: p for p in problems}
        self.problems_ref = write_problems(f"file://{folder}/problems.parquet", problems)
        self.batches: dict[int, tuple[Ref, Ref]] = {}
        self.bank = "b"
        self.notes_format: NotesFormat = "json"
        self.base_pass_rate = 0.0
        """How often attempts pass that nothing has taught yet."""
        self.evidence: EvidenceKind = "terms"
        self.prompts = PROMPTS

    def job(self, key: str) -> JobContext:
        return JobContext(key, threading.Event())

    def batch(self, step: int, attempts: Sequence[tuple[str, str, bool | None]]) -> tuple[Ref, Ref]:
        """Artifacts of a step from (problem id, text, passed); None for one that nobody could judge."""
        rollouts, verdicts = [], []
        for n, (pid, text, passed) in enumerate(attempts):
            head = {"rollout_id": f"{pid}#{n}", "problem_id": pid, "split": self.problems[pid].split}
            rollouts.append(
                head
                | {"prompt_id": pid, "sample": n, "prompt_ids": [1], "token_ids": [2], "logprobs": [-0.5]}
                | {"text": text, "finish_reason": "stop", "policy_version": step - 1}
            )
            verdicts.append(
                head
                | {"outcome": OUTCOMES[passed], "reward": float(passed or 0.0)}
                | {"feedback": "" if passed else f"wrong {n}", "sandbox_tier": "", "cpu_ms": 0.0}
            )
        base = f"file://{self.folder}/s{step}"
        refs = (
            write_table(f"{base}/rollouts.parquet", rollouts, ROLLOUTS),
            write_table(f"{base}/verdicts.parquet", verdicts, VERDICTS),
        )
        self.batches[step] = refs
        return refs

    def record(self, step: int, attempts: Sequence[tuple[str, str, bool | None]], keep: int = 16) -> MemoryCounts:
        rollouts, verdicts = self.batch(step, attempts)
        request = RecordRequest(
            bank=self.bank,
            step=step,
            rollouts=rollouts,
            verdicts=verdicts,
            problems=self.problems_ref,
            keep_attempts=keep,
        )
        return record(self.ledger, request, self.job(f"s{step}.record"))

    def reflection(self, step: int, ids: list[str] | None = None) -> ReflectRequest:
        return ReflectRequest(
            bank=self.bank,
            step=step,
            policy_version=step - 1,
            problem_ids=ids or list(self.problems),
            base_pass_rate=self.base_pass_rate,
            generator=Generator(model="run@0", format=self.notes_format),
            settings=ReflectSettings(excerpt_chars=64),
            evidence=self.evidence,
            prompts=PROMPTS,
        )

    def reflect(self, step: int, words: Words, ids: list[str] | None = None) -> WriteResult:
        return reflect(self.ledger, words, self.reflection(step, ids), self.job(f"s{step}.reflect"))  # type: ignore[arg-type]

    def abstract(self, step: int, words: Words, **settings: Any) -> WriteResult:
        request = AbstractRequest(
            bank=self.bank,
            step=step,
            policy_version=step - 1,
            generator=Generator(model="run@0", format=self.notes_format),
            settings=AbstractSettings(**{"clustering": "terms", "max_behaviors": 2, **settings}),
            evidence=self.evidence,
            prompts=PROMPTS,
        )
        return abstract(self.ledger, self.search.vectors, words, request, self.job(f"s{step}.abstract"))  # type: ignore[arg-type]

    def retrieve(self, step: int, *, per_rollout: bool = True, **settings: Any) -> RetrieveResult:
        rollouts, verdicts = self.batches[step] if per_rollout else (None, None)
        if self.evidence == "terms":
            settings = {"by_meaning": (), **settings}  # as pocket's recipe says
        request = RetrieveRequest(
            bank=self.bank,
            problems=self.problems_ref,
            rollouts=rollouts,
            verdicts=verdicts,
            step=step,
            base_pass_rate=self.base_pass_rate,
            settings=ContextSettings(**{"excerpt_chars": 64, **settings}),
            evidence=self.evidence,
            prompts=self.prompts,
            out=f"file://{self.folder}/s{step}/contexts.parquet",
        )
        return retrieve(self.ledger, self.search, request, self.job(f"s{step}.retrieve"))


FAMILIES = ("zor-mil", "zor-mil", "zor-kem", "zor-kem", "pav-mil", "pav-mil", "pav-kem", "pav-kem")


def eight_problems() -> list[Problem]:
    """Eight problems of four families that share symbols."""
    return [code_problem(f"p{n}", f"Apply {family}. Task {n}.") for n, family in enumerate(FAMILIES)]
