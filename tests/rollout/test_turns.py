"""Whose turn it is: one policy at a time, side by side, first come, first served."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pmd.services.common.wire import Policy, Weights
from pmd.services.rollout.engines.vllm.turns import Turns


def policy(run: str) -> Policy:
    return Policy(run=run, weights=Weights(version=1, uri="file:///none", sha256=run))


A, B = policy("a"), policy("b")


class Memory:
    """Holds one policy, and notes what was loaded and who worked at once."""

    def __init__(self) -> None:
        self.held: Policy | None = None
        self.loads: list[str] = []
        self.working: list[Policy] = []
        self.turns = Turns(lambda asked: self.held == asked, self.load)

    def load(self, asked: Policy) -> None:
        assert self.working == [], "nobody draws while weights change"
        self.held = None
        time.sleep(0.01)
        self.held = asked
        self.loads.append(asked.run)

    def work(self, asked: Policy, seconds: float) -> None:
        with self.turns.at(asked, lambda: None):
            self.working.append(asked)
            assert self.held == asked
            assert set(map(str, self.working)) == {str(asked)}
            time.sleep(seconds)
            assert self.held == asked
            self.working.remove(asked)


def test_work_on_one_policy_never_meets_another_and_all_of_it_is_done() -> None:
    memory = Memory()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: memory.work((A, B)[i % 3 == 0], 0.003), range(60)))
    assert {"a", "b"} == set(memory.loads)


def test_work_on_one_policy_goes_on_side_by_side() -> None:
    memory, met = Memory(), threading.Barrier(3, timeout=20)

    def work() -> None:
        with memory.turns.at(A, lambda: None):
            met.wait()

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: work(), range(3)))
    assert memory.loads == ["a"]


def test_nobody_overtakes_who_waits_for_another_policy() -> None:
    memory, order = Memory(), []
    with ThreadPoolExecutor(4) as pool, memory.turns.at(A, lambda: None):

        def work(asked: Policy) -> None:
            with memory.turns.at(asked, lambda: None):
                order.append(asked.run)

        first = pool.submit(work, B)
        while not memory.turns.wanted(A):
            time.sleep(0.001)
        second = pool.submit(work, A)
        time.sleep(0.05)
        assert order == []
    first.result(20)
    second.result(20)
    assert order == ["b", "a"]
    assert not memory.turns.wanted(A)


def test_who_gives_up_waiting_or_can_not_load_holds_nobody_up() -> None:
    memory = Memory()

    def give_up() -> None:
        raise TimeoutError

    with ThreadPoolExecutor(1) as pool, memory.turns.at(A, lambda: None):
        with pytest.raises(TimeoutError):
            pool.submit(lambda: memory.turns.at(B, give_up).__enter__()).result(20)
        pool.submit(memory.work, A, 0.0).result(20)

    def fail(_: Policy) -> None:
        raise OSError

    broken = Turns(lambda _: False, fail)
    for _ in range(2):
        with pytest.raises(OSError), broken.at(A, lambda: None):  # noqa: PT011
            raise AssertionError
