"""Engines beside each other on the same requests, in turn: vLLM behind our Protocol, vLLM's own offline engine, and
ours on transformers; then what an update of the weights costs.

    python -m bench.engines                              # needs `make vllm`; minutes, most of them two starts of vLLM
    python -m bench.engines --model FOLDER --dtype bf16  # another model: an ordinary folder of transformers

Prints completion tokens per second of each (median over the rounds), the ratio of the first two by pairs of rounds, the
seconds of an update, and the longest answer that somebody who keeps asking for one token sees while weights change.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.in_turn import compare, ratio
from pmd.examples.pocket.world import problem_sets
from pmd.services.common.artifacts import seal_weights
from pmd.services.common.wire import Message, Policy, Sampling
from pmd.services.rollout.completion import Row
from pmd.services.rollout.engines import Engine
from pmd.services.rollout.engines.transformers.engine import TransformersEngine
from pmd.services.rollout.engines.vllm.engine import VllmEngine
from pmd.services.rollout.engines.vllm.requests import seed_of
from pmd.services.rollout.settings import RolloutSettings

BASE = Path(__file__).parents[1] / "examples" / "pocket" / "base"


def sealed(model: Path, folder: Path, version: int) -> Policy:
    """A copy of `model` as a published version."""
    shutil.copytree(model, folder)
    return Policy(run="bench", weights=seal_weights(folder, version, {}))


class Offline:
    """vLLM's own engine in a process of its own, with the settings that ours gives it."""

    def __init__(
        self, model: Path, rows: list[Row], sampling: Sampling, ends: list[int], settings: RolloutSettings
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.engines", "--offline"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        asked = {
            "model": str(model),
            "dtype": "bfloat16" if settings.rollout_dtype == "bf16" else "float32",
            "rows": settings.rollout_batch_rows,
            "prompts": [list(row.prompt_ids) for row in rows],
            "seeds": [seed_of(row) for row in rows],
            "max_tokens": sampling.max_tokens,
            "ends": ends,
        }
        self._tell(asked)
        self._hear()

    def _tell(self, what: Any) -> None:
        assert self._process.stdin is not None
        print(json.dumps(what), file=self._process.stdin, flush=True)

    def _hear(self) -> int:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("tokens "):
                return int(line.split()[1])
        raise RuntimeError("the offline engine ended")

    def draw(self) -> int:
        self._tell("draw")
        return self._hear()

    def close(self) -> None:
        self._process.stdin.close()  # type: ignore[union-attr]
        self._process.wait()


def offline() -> None:
    """The other side of `Offline`."""
    from vllm import LLM, SamplingParams  # noqa: PLC0415

    asked = json.loads(sys.stdin.readline())
    llm = LLM(
        asked["model"],
        dtype=asked["dtype"],
        enforce_eager=True,
        max_num_seqs=asked["rows"],
        kv_cache_memory_bytes=2**30,
        logprobs_mode="processed_logprobs",
        generation_config="vllm",
    )
    params = [
        SamplingParams(
            max_tokens=asked["max_tokens"], seed=seed, logprobs=0, stop_token_ids=asked["ends"], ignore_eos=True
        )
        for seed in asked["seeds"]
    ]
    prompts = [{"prompt_token_ids": ids} for ids in asked["prompts"]]
    print("tokens 0", flush=True)
    for _ in sys.stdin:
        drawn = llm.generate(prompts, params, use_tqdm=False)
        print("tokens", sum(len(one.outputs[0].token_ids) for one in drawn), flush=True)


def longest_answer(engine: Engine, policies: list[Policy]) -> tuple[list[float], float, float]:
    """Seconds of each update, and median and longest of the answers that somebody gets who keeps asking."""
    current, answers, over = [policies[0]], [], threading.Event()

    def ask() -> None:
        while not over.is_set():
            began = time.perf_counter()
            engine.generate(current[0], [Row((1, 2, 3), 0, 0)], Sampling(max_tokens=1), lambda: None)
            answers.append(time.perf_counter() - began)

    caller = threading.Thread(target=ask)
    caller.start()
    updates = []
    for policy in policies[1:]:
        time.sleep(1.0)
        began = time.perf_counter()
        current[0] = policy
        engine.load(policy)
        updates.append(time.perf_counter() - began)
    time.sleep(1.0)
    over.set()
    caller.join()
    return updates, statistics.median(answers), max(answers)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=BASE)
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--problems", type=int, default=32)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--offline", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.offline:
        offline()
        return
    settings = RolloutSettings(
        token="-" * 32,
        rollout_dtype=arguments.dtype,
        rollout_threads=arguments.threads,
        rollout_batch_rows=arguments.problems * arguments.samples,
    )
    sampling = Sampling(max_tokens=arguments.max_tokens)
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        policies = [sealed(arguments.model, root / str(version), version) for version in range(2)]
        ours, vllm = TransformersEngine(settings), VllmEngine(settings)
        stack.callback(vllm.close)
        problems = problem_sets("code", "hard", 0, train=arguments.problems)["train"]
        chats = [[Message(**turn) for turn in problem["messages"]] for problem in problems]
        prompts, _ = ours.render(policies[0], chats)
        rows = [
            Row(ids, 0, i * arguments.samples + j) for i, ids in enumerate(prompts) for j in range(arguments.samples)
        ]
        began = time.perf_counter()
        vllm.load(policies[0])
        print(f"vLLM's start: {time.perf_counter() - began:.0f} s")
        alone = Offline(arguments.model, rows, sampling, sorted(vllm._language(policies[0]).ends), settings)
        stack.callback(alone.close)

        def tokens(engine: Engine) -> int:
            return sum(len(one.token_ids) for one in engine.generate(policies[0], rows, sampling, lambda: None))

        contenders: dict[str, Callable[[], int]] = {
            "vllm": lambda: tokens(vllm),
            "offline": alone.draw,
            "transformers": lambda: tokens(ours),
        }
        ratio(compare(contenders, arguments.rounds), "vllm", "offline")
        for name, engine in (("vllm", vllm), ("transformers", ours)):
            updates, median, longest = longest_answer(engine, [policies[i % 2] for i in range(arguments.updates + 1)])
            print(
                f"{name:12} {len(updates)} updates, median {statistics.median(updates):.3f} s, "
                f"longest {max(updates):.3f}; a token is waited for {median:.3f} s, {longest:.3f} at the longest"
            )


if __name__ == "__main__":
    main()
