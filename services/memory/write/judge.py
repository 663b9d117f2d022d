"""Whether two notes may stand together, by a model's yes or no (`memory.contradictions: model`).

After a reflection the pairs of notes that its problems may be shown together, their own and the rules of their
clusters, are looked at: those that are alike enough by the embedder in force or by `hash` are asked about, the
likeliest first, at most `PAIRS` a step. What is beyond waits for the next step that has the problem.

Invariants:
- A pair is asked about once (`judgements`), and answers are in the ledger before any context is made by them.
- An answer that can't be read, twice, says nothing: the words of the notes decide, and the pair is asked about again.
- A job that is repeated after a kill asks for what is missing of the step's answers and no more. Those of our own
  rollout service are a function of the job's key, so they are the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from pmd.services.common.jobs import JobContext
from pmd.services.common.requests import Judged, ReflectRequest
from pmd.services.memory.evidence.bank import by_scope
from pmd.services.memory.evidence.terms import without_thinking
from pmd.services.memory.index.embed import HashEmbedder
from pmd.services.memory.index.vectors import Vectors
from pmd.services.memory.ledger import Ledger, judgements, reads
from pmd.services.memory.ledger.clusters import clusters_of
from pmd.services.memory.ledger.judgements import Judgement, Pair, pair
from pmd.services.memory.write.generator import ChatModel
from pmd.services.memory.write.notes import InvalidNotes

PAIRS = 64
"""Most that one step asks about."""
ALIKE = 0.3
"""Cosine from which two notes of one problem are worth a question."""
PROMPT = """Two notes are meant to help with the same task.

Note A: {a}
Note B: {b}

Do the two notes contradict each other, or say the same thing in other words? Answer with one word: yes or no."""

_WORD = re.compile(r"[^\W\d_]+")


def parse(answer: str) -> bool:
    """Yes or no, as the first word that is one of them.

    Raises:
        InvalidNotes: when neither is there.
    """
    words = (word.lower() for word in _WORD.findall(without_thinking(answer)))
    said: str | None = next((word for word in words if word in {"yes", "no"}), None)
    if said is None:
        raise InvalidNotes("neither yes nor no")
    return said == "yes"


def candidates(groups: Sequence[Sequence[str]], vectors: Vectors, job: JobContext) -> list[tuple[str, str]]:
    """The pairs of texts within any of some groups that are alike, the likeliest first; each once."""
    texts = sorted({text for group in groups for text in group})
    row = {text: n for n, text in enumerate(texts)}
    both = vectors.of(texts, job.check), HashEmbedder().embed(texts)
    found = {(a, b) for group in groups for a, b in combinations(sorted(set(group)), 2)}
    likeness = {(a, b): max(float(np.dot(of[row[a]], of[row[b]])) for of in both) for a, b in found}
    # Rounded, so that the order is that of the texts and no library's.
    ranked = sorted(found, key=lambda two: (-round(likeness[two], 4), two))
    return [two for two in ranked if likeness[two] >= ALIKE]


def judge(ledger: Ledger, vectors: Vectors, model: ChatModel, request: ReflectRequest, job: JobContext) -> Judged:
    """Ask about the pairs of notes at the problems of a reflection that nothing is known of.

    Raises:
        EmbedderDown: when notes must be embedded and the embedder is out of reach.
    """
    bank, ids = request.bank, request.problem_ids
    with ledger.read() as db:
        cluster = clusters_of(db, bank, ids)
        own = by_scope(reads.active(db, bank, "insight", ids))
        rules = by_scope(reads.active(db, bank, "behavior", sorted(set(cluster.values()))))
        groups = [[i.text for i in (*own.get(pid, ()), *rules.get(cluster.get(pid, ""), ()))] for pid in ids]
        known = judgements.judgements(db, bank, [text for group in groups for text in group])
        before = judgements.of_step(db, bank, request.step)
    open_: dict[Pair, tuple[str, str]] = {}
    for a, b in candidates(groups, vectors, job):
        if (key := pair(a, b)) not in known:
            open_.setdefault(key, (a, b))
    asked = list(open_.items())[: max(0, PAIRS - len(before))]
    prompts = [PROMPT.format(a=a, b=b) for _, (a, b) in asked]
    said = model.notes(prompts, job, parse, about="judge") if prompts else None
    answers = dict(zip((key for key, _ in asked), said.found if said else (), strict=True))
    model_name = request.generator.model
    found = {k: Judgement(apart, request.step, model_name) for k, apart in answers.items() if apart is not None}
    if found:
        ledger.apply(bank, f"{job.key} judge", lambda tx: judgements.keep(tx.db, bank, found))
    return Judged(
        asked=len(before) + len(asked),
        apart=sum(before) + sum(one.apart for one in found.values()),
        unread=len(asked) - len(found),
        waiting=len(open_) - len(asked),
    )
