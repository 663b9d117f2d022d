"""What LiveCodeBench's own grader accepts is accepted; what it rejects is rejected, but where the table says why not.

The table's `upstream` column is what the grader itself said. To record it anew (it is in PyPI's `lighteval` 0.13.0,
unpacked anywhere, with numpy and tqdm):

    python -m tests.verifier.test_livecodebench lighteval/tasks/tasks/lcb/codegen_metrics.py
"""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

TABLE = yaml.safe_load((Path(__file__).parent / "livecodebench.yaml").read_text())


def cases() -> list[dict[str, Any]]:
    """All rows of the table as programs."""
    found = [
        {
            "name": f"prints {got!r}",
            "program": f"print({got!r}, end='')",
            "input": "",
            "output": expected,
            "upstream": up,
        }
        for got, expected, up in TABLE["outputs"]
    ]
    found += [
        {"name": f"returns {got}", "fn_name": "f", "program": f"def f():\n    return {got}", "output": expected}
        | {"input": "", "upstream": up}
        for got, expected, up in TABLE["values"]
    ]
    return found + TABLE["programs"]


@pytest.mark.parametrize("case", cases(), ids=lambda case: case["name"])
def test_we_say_what_upstream_says(case: dict[str, Any], sandbox: Any) -> None:
    spec = {
        "kind": "code",
        "fn_name": case.get("fn_name"),
        "tests": [{"input": case["input"], "output": case["output"]}],
        "limits": {"cpu_s": 4},
    }
    accepts = case["upstream"] != ("deviation" in case)
    verdict = sandbox.judge(case["program"], spec)
    assert (verdict.outcome == "passed") is accepts, verdict


def record(case: dict[str, Any], grader: str, out: Any) -> None:
    """Run upstream's grader on one case; it patches its process, so it gets one of its own."""
    spec = importlib.util.spec_from_file_location("upstream", grader)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # A function without arguments has an empty input, which upstream can't read: one argument stands in for it.
    program = case["program"].replace("def f():", "def f(_):")
    inputs = case["input"] or ("0" if case.get("fn_name") else "")
    tests = {"inputs": [inputs], "outputs": [case["output"]], "fn_name": case.get("fn_name")}
    answer = module.run_test({"input_output": json.dumps(tests)}, program, timeout=6)
    results = answer[0] if isinstance(answer, tuple) else answer
    out.put(bool(results) and all(r is True for r in results))


if __name__ == "__main__":
    for row in cases():
        queue: Any = multiprocessing.Queue()
        process = multiprocessing.Process(target=record, args=(row, sys.argv[1], queue))
        process.start()
        process.join(20)
        says = not queue.empty() and queue.get()  # a program may take the grader down with it
        print("same" if says == row["upstream"] else f"DIFFERS (upstream: {says})", row["name"])
