"""Whose turn it is at an engine that holds one policy at a time.

Invariants:
- Work on one policy goes on side by side; work on another begins once that has ended, and loads its policy first.
- First come, first served: nobody overtakes who waits for another policy, so none waits for ever.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pmd.services.common.wire import Policy

CHECK_S = 0.1
"""How often who waits is asked whether it still wants to."""


class Turns:
    """Admits work by its policy."""

    def __init__(self, holds: Callable[[Policy], bool], load: Callable[[Policy], None]) -> None:
        """Args:
        holds: whether exactly this policy is in memory and can be worked with.
        load: puts it there; called while nobody works.
        """
        self._holds = holds
        self._load = load
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Policy, object]] = deque()
        self._working = 0
        self._loading = False

    @contextmanager
    def at(self, policy: Policy, check: Callable[[], None]) -> Iterator[None]:
        """Work on `policy`, which is in memory inside the `with` block.

        Args:
            check: called while waiting, and once before anything is loaded; what it raises ends that.

        Raises what `load` raises.
        """
        mine = (policy, object())
        with self._changed:
            self._waiting.append(mine)
        try:
            with self._changed:
                while not self._may_work(mine, policy):
                    self._changed.wait(CHECK_S)
                    check()
                check()
                self._loading = not self._holds(policy)
            if self._loading:
                try:
                    self._load(policy)
                finally:
                    self._loading = False
            with self._changed:
                self._working += 1
        finally:
            with self._changed:
                self._waiting.remove(mine)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._working -= 1
                self._changed.notify_all()

    def _may_work(self, mine: tuple[Policy, object], policy: Policy) -> bool:
        if self._waiting[0] is not mine or self._loading:
            return False
        return self._working == 0 or self._holds(policy)

    @property
    def loading(self) -> bool:
        """Whether a policy is being loaded."""
        return self._loading

    def wanted(self, policy: Policy) -> bool:
        """Whether another policy than `policy` is waited for: who has long work makes room now and then."""
        with self._changed:
            return any(other != policy for other, _ in self._waiting)
