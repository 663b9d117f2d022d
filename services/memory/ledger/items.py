"""A memory item as a value, and what makes two texts the same."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pmd.services.common.bank import Kind, Status
from pmd.services.common.wire import Level

Thought = tuple[str, str, str]
"""Kind, scope and fingerprint of a note."""

_NAMESPACE = uuid.UUID("6f1d0c52-93a7-4a57-9f0e-5b6c7f6f2f11")

CLUSTER = "cluster:"
"""What the id of a cluster begins with; the id of its first problem follows."""
PERSON = "person"
"""Who acts is a policy version or a job; people are `person` or `person:<name>`."""


ORIGIN = "origin"
"""Fact of an imported item: the run that wrote it first. No later evidence takes it away."""


class UnknownBank(KeyError):
    """No such bank, or nothing was ever written to it."""


class BankMoved(RuntimeError):
    """A bank is not at the `seq` that was seen."""

    def __init__(self, seq: int) -> None:
        super().__init__(f"the bank is at seq {seq} by now; look at it and try again")
        self.seq = seq


def fingerprint(text: str) -> str:
    """What stays of a text when case, spacing and the punctuation around it are ignored, as 32 hex digits."""
    words = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    bare = words.strip(" .,;:!?\"'`*_-") or words
    return hashlib.blake2b(bare.encode(), digest_size=16).hexdigest()


MIN_PART = 4
"""A banned text of so many words is not shown inside a longer one either; shorter ones occur in others by chance."""
_WORD = re.compile(r"[^\W_]+|[+/^=<>%\[\](){}]|-(?=\d)")


def _words(text: str) -> str:
    """A text as words and signs of mathematics, without case, punctuation, emphasis and invisible characters."""
    seen = "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf")
    return " ".join(_WORD.findall(seen.casefold())) or seen.strip()


class Banned:
    """Texts that people never want to see again, in whatever dress."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._texts = frozenset(_words(text) for text in texts if text.strip())
        self._parts = tuple(f" {text} " for text in self._texts if text.count(" ") >= MIN_PART - 1)

    def __contains__(self, text: str) -> bool:
        """Whether `text` is one of them."""
        return bool(self._texts) and _words(text) in self._texts

    def says(self, text: str) -> bool:
        """Whether `text` is one of them, or repeats one of at least `MIN_PART` words."""
        if not self._texts:
            return False
        words = _words(text)
        return words in self._texts or any(part in f" {words} " for part in self._parts)


def by_person(actor: str) -> bool:
    """Whether a person did it."""
    return actor == PERSON or actor.startswith(f"{PERSON}:")


@dataclass(frozen=True)
class Use:
    """An item in the teacher contexts of one problem in one step."""

    problem_id: str
    item_id: str
    version: int
    score: float
    """Similarity to the problem."""
    credibility: float
    shown: bool = True
    """False: it was chosen and held out, to learn what it is worth."""
    base: float | None = None
    """Mean reward at the problem in this step of attempts that read no memory; None when there was none."""


@dataclass(frozen=True)
class Item:
    """One memory item at one version."""

    level: Level
    kind: Kind
    scope: str
    """The problem id (experience, insight) or the cluster (behavior)."""
    text: str
    step: int
    """Training step that wrote or last confirmed it."""
    policy_version: int
    status: Status = "active"
    facts: dict[str, Any] = field(default_factory=dict)
    """Evidence and provenance: sources, passed, feedback, support, members, reason of a quarantine."""
    id: str = ""
    version: int = 1
    seq: int = 0
    pinned: bool = False
    edited: bool = False
    """A person wrote its text or brought it back."""

    @property
    def protected(self) -> bool:
        """Whether a person stands behind it: machines propose changes and make none."""
        return self.pinned or self.edited

    @property
    def settled(self) -> bool:
        """Whether only a person may change it: it is held, or a person put it away."""
        return self.protected or self.status in {"banned", "superseded"}

    @property
    def thought(self) -> Thought:
        """What it says about what: of active notes no two have the same."""
        return self.kind, self.scope, fingerprint(self.text)

    def identity(self, bank: str) -> str:
        """The id that these words get in `bank` when they are written first."""
        unique = self.facts.get("rollout_id", self.text)
        return str(uuid.uuid5(_NAMESPACE, json.dumps([bank, self.level, self.kind, self.scope, unique])))
