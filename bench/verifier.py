"""Cost of one small test: our sandbox against what people use instead, in turn, in one run.

    python -m bench.verifier                  # on a machine that does nothing else

Contenders: our sandboxed child, without and with LiveCodeBench's imports; `python3 -I -S` as a subprocess, cold, the
same with those imports, and inside bubblewrap where that is installed; and an in-process `exec` grader of the usual
shape, which isolates nothing. Prints wall and CPU time per test and, of whole rounds, the median ratio to ours; then
tests per second with one thread per core, in turn as well. Ratios are what to quote: absolute figures say more about
the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pmd.services.verifier.sandbox.harness import STAR_IMPORTS
from pmd.services.verifier.sandbox.job import Job, Limits
from pmd.services.verifier.sandbox.tier import open_sandbox

PROGRAM = "a, b, c = map(int, input().split())\nprint(a + b + c)\n"
INPUT, OUTPUT = "1 2 3\n", "6"
LIMITS = Limits(cpu_s=2.0, memory_mb=256, output_kb=64)
MODULES = STAR_IMPORTS.split()
PRELUDE = "".join(
    [f"from {m} import *\n" for m in MODULES]
    + [f"import {m}\n" for m in MODULES if m not in ("builtins", "typing")]
    + ["sys.setrecursionlimit(50000)\n"]
)
PYTHON = [str(Path(sys.executable).resolve()), "-I", "-S"]  # a virtual environment may lie where the jail hides it
JAIL = ["bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "--tmpfs", "/tmp", "--dev", "/dev"]

SLICE_S = 1.0  # of a turn

Contender = Callable[[], float]
"""Run one test, check its output, return the CPU seconds that it took (nan: not known)."""


def subprocess_test(command: list[str], program: str) -> Contender:
    """A test in a fresh interpreter."""

    def run() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([*command, "-c", program], input=INPUT, capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        check(done.stdout)
        # bubblewrap's inner process is reaped by no one here, so its CPU time is not in these numbers.
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return float("nan") if command[0] == "bwrap" else cpu

    return run


def exec_test() -> float:
    """A test in this very process, as most graders of reinforcement learning do it (there behind an alarm)."""
    began = time.process_time()
    out, stdin = io.StringIO(), sys.stdin
    sys.stdin = io.StringIO(INPUT)
    try:
        with contextlib.redirect_stdout(out):
            exec(PRELUDE + PROGRAM, {"__name__": "__main__"})
    finally:
        sys.stdin = stdin
    check(out.getvalue())
    return time.process_time() - began


def check(output: str) -> None:
    """A contender that gives another answer is no contender."""
    if output.strip() != OUTPUT:
        raise SystemExit(f"a contender printed {output!r}")


def median(values: list[float]) -> float:
    """The median in milliseconds."""
    return statistics.median(values) * 1e3


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60, help="tests per contender, at least 50 for a figure to quote")
    parser.add_argument("--turns", type=int, default=5, help="seconds per contender, for the throughput")
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    pool, tier = open_sandbox(cores, memory_mb=cores * LIMITS.memory_mb * 2, insecure=False)

    def ours(*, prelude: bool) -> Contender:
        job = Job(PROGRAM, None, INPUT, LIMITS, prelude=prelude)

        def run() -> float:
            execution = pool.run(job)
            check(execution.stdout.decode())
            return execution.cpu_s

        return run

    contenders: dict[str, Contender] = {
        "ours": ours(prelude=False),
        "ours, imports": ours(prelude=True),
        "python3 -I -S": subprocess_test(PYTHON, PROGRAM),
        "python3, imports": subprocess_test(PYTHON, PRELUDE + PROGRAM),
    }
    if shutil.which("bwrap"):
        contenders["bubblewrap"] = subprocess_test([*JAIL, *PYTHON], PROGRAM)
    contenders["exec in process"] = exec_test
    wall: dict[str, list[float]] = {name: [] for name in contenders}
    cpu: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(arguments.rounds + 3):
        for name, run in contenders.items():
            began = time.perf_counter()
            spent = run()
            if turn >= 3:  # the first rounds warm up
                wall[name].append(time.perf_counter() - began)
                cpu[name].append(spent)
    print(f"tier {tier.name}, {cores} cores, load {os.getloadavg()[0]:.1f}, {arguments.rounds} rounds; milliseconds")
    print(f"{'':18}{'wall min':>9}{'median':>9}{'cpu min':>9}{'median':>9}{'wall / ours':>13}")
    for name in contenders:
        ratio = statistics.median(a / b for a, b in zip(wall[name], wall["ours"], strict=True))
        figures = (min(wall[name]) * 1e3, median(wall[name]), min(cpu[name]) * 1e3, median(cpu[name]))
        print(f"{name:18}" + "".join(f"{figure:9.2f}" for figure in figures) + f"{ratio:13.2f}")
    if "bubblewrap" not in contenders:
        print("bubblewrap is not installed (apt-get install bubblewrap): not measured")
    print(f"\ntests per second, {cores} threads; median of {arguments.turns} turns")
    # `exec` holds the interpreter lock and this process's streams: one at a time.
    threaded = {name: run for name, run in contenders.items() if run is not exec_test}
    rates: dict[str, list[float]] = {name: [] for name in threaded}
    with ThreadPoolExecutor(cores) as threads:
        for _ in range(arguments.turns):
            for name, run in threaded.items():
                end = time.perf_counter() + SLICE_S
                rates[name].append(sum(threads.map(worker, [run] * cores, [end] * cores)) / SLICE_S)
    fast = statistics.median(rates["ours"]), statistics.median(rates["ours, imports"])
    print(f"{'':18}{'':9}{'ours / it':>11}{'ours, imports / it':>20}")
    for name in threaded:
        rate = statistics.median(rates[name])
        print(f"{name:18}{rate:9.0f}{fast[0] / rate:11.2f}{fast[1] / rate:20.2f}")
    pool.close()


def worker(run: Contender, end: float) -> int:
    """Tests that one thread gets done until `end`."""
    done = 0
    while time.perf_counter() < end:
        run()
        done += 1
    return done


if __name__ == "__main__":
    main()
