"""Records of LiveCodeBench and SciKnowEval: what a right one becomes, and that no wrong one does harm."""

from __future__ import annotations

import base64
import gzip
import json
import os
import pickle
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pmd.gateway.recipes.datasets import livecodebench, records
from pmd.gateway.recipes.datasets.records import BadField
from pmd.gateway.recipes.problems import InvalidRecipe, load_problems, parse_recipe
from pmd.services.common.wire import Problem

Tree = Callable[..., dict[str, Any]]

STDIN = [{"input": "1 2\n", "output": "3", "testtype": "stdin"}]
PRIVATE = [{"input": f"{i} 1\n", "output": f"{i + 1}", "testtype": "stdin"} for i in range(10)]
CALLS = [{"input": "[1, 2]\n3", "output": "6", "testtype": "functional"}]


def packed(value: Any, protocol: int = 4) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(value, protocol))).decode()


def lcb(**over: Any) -> dict[str, Any]:
    return {
        "question_title": "Sum",
        "question_content": "Add the numbers.",
        "platform": "atcoder",
        "question_id": "abc 1/a",
        "contest_id": "abc1",
        "contest_date": "2025-02-03T00:00:00",
        "starter_code": "",
        "difficulty": "easy",
        "public_test_cases": json.dumps(STDIN),
        "private_test_cases": packed(json.dumps(PRIVATE)),
        "metadata": "{}",
        **over,
    }


CALL = {
    "public_test_cases": json.dumps(CALLS),
    "private_test_cases": packed(json.dumps(CALLS)),
    "metadata": '{"func_name": "total"}',
    "starter_code": "class Solution:\n    def total(self, a: List[int], b: int) -> int:\n        ",
}


def sci(**over: Any) -> dict[str, Any]:
    return {
        "question": "Which is a noble gas?",
        "choices": {"text": ["Iron", "Neon", "Gold", "Zinc"], "label": ["A", "B", "C", "D"]},
        "answerKey": "B",
        "answer": "",
        "type": "mcq-4-choices",
        "domain": "Chemistry",
        "details": {"level": "L1"},
        **over,
    }


def load(tree: Tree, folder: Path, source: str, *records: Any, **more: Any) -> tuple[list[Problem], list[Any]]:
    path = folder / "records.jsonl"
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records))
    recipe = tree()
    recipe["problems"] = {"source": source, "files": {"train": [str(path)]}, **more}
    return load_problems(parse_recipe(recipe).problems)


def test_a_livecodebench_record_becomes_a_problem(recipe_tree: Tree, tmp_path: Path) -> None:
    (problem,), bad = load(recipe_tree, tmp_path, "livecodebench", lcb())
    assert bad == []
    assert (problem.id, problem.domain, problem.split) == ("lcb-abc-1-a-train", "atcoder-easy", "train")
    assert problem.question().startswith("Add the numbers.\n\nRead the input from standard input")
    spec = problem.verifier
    assert (spec["kind"], spec["fn_name"], spec["compare"]) == ("code", None, "livecodebench")
    assert spec["limits"] == {"cpu_s": 6.0, "memory_mb": 2048, "total_s": 7.0 * 11 + 5}
    assert spec["tests"][0] == {"input": "1 2\n", "output": "3", "public": True}
    assert spec["tests"][1:] == [{"input": t["input"], "output": t["output"]} for t in PRIVATE]


def test_a_functional_record_names_its_function(recipe_tree: Tree, tmp_path: Path) -> None:
    (problem,), _ = load(recipe_tree, tmp_path, "livecodebench", lcb(**CALL))
    assert problem.verifier["fn_name"] == "total"
    assert "```python\nclass Solution:" in problem.question()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_of_pickle_is_read(protocol: int) -> None:
    text = json.dumps([{**PRIVATE[0], "output": "é\n\u2028"}], ensure_ascii=False)
    assert livecodebench.unpack(packed(text, protocol)) == json.loads(text)
    assert livecodebench.unpack(text) == json.loads(text), "plain JSON"


def test_dates_and_shares_choose(recipe_tree: Tree, tmp_path: Path) -> None:
    old = lcb(question_id="old", contest_date="2024-12-31")
    window = {"since": "2025-02-01", "until": "2025-05-01", "train_tests": 0.5}
    problems, bad = load(recipe_tree, tmp_path, "livecodebench", old, lcb(), **window)
    assert bad == []
    (problem,) = problems
    private = [t for t in problem.verifier["tests"] if not t.get("public")]
    assert len(private) == 5
    assert private == [t for t in ({"input": p["input"], "output": p["output"]} for p in PRIVATE) if t in private]
    files = {split: [str(tmp_path / "records.jsonl")] for split in ("train", "test")}
    both = load(recipe_tree, tmp_path, "livecodebench", lcb(), files=files, shared_questions=True, train_tests=0.5)[0]
    assert [(p.id, len(p.verifier["tests"])) for p in both] == [("lcb-abc-1-a-train", 6), ("lcb-abc-1-a-test", 11)]
    with pytest.raises(InvalidRecipe, match="asks what train problem"):
        load(recipe_tree, tmp_path, "livecodebench", lcb(), files=files)


class Bomb:
    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/pmd-pickle-bomb",)


def zipped(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()


PROTOCOL = b"\x80\x04"
HOSTILE = {
    "calls os.system": packed(Bomb()),
    "a list": packed([1]),
    "a dict": packed({"a": "b"}),
    "a global": zipped(PROTOCOL + b"cos\nsystem\n."),
    "a stack global": zipped(PROTOCOL + b"\x8c\x02os\x8c\x06system\x93."),
    "an extension": zipped(PROTOCOL + b"\x82\x01."),
    "a persistent id": zipped(b"Pabc\n."),
    "a memo of 2**31 places": zipped(PROTOCOL + b"r" + struct.pack("<I", 2**31 - 1) + b"."),
    "a length of 2**62": zipped(PROTOCOL + b"\x8d" + struct.pack("<Q", 2**62) + b"x."),
    "two texts": zipped(PROTOCOL + b"\x8c\x01a\x8c\x01b."),
    "a right text behind a global": zipped(PROTOCOL + b"cos\nsystem\n" + pickle.dumps(json.dumps(PRIVATE))[2:]),
    "millions of harmless opcodes": zipped(PROTOCOL + b"\x8c\x02[]" + b"\x94" * 3_000_000 + b"."),
    "no text": zipped(PROTOCOL + b"."),
    "no pickle": zipped(b"\xff\xfe"),
    "an empty pickle": zipped(b""),
    "no end": zipped(PROTOCOL + b"\x8c\x01a"),
    "no zlib": base64.b64encode(b"hello").decode(),
    "half of a stream": base64.b64encode(zlib.compress(pickle.dumps("[]" * 1000))[:-6]).decode(),
    "no base64": "\u00e9\u00e9",
    "base64 with rubbish": "aGVsbG8=\n!!",
    "a text that is no JSON": packed("hello"),
    "JSON that is no list": packed("{}"),
    "no tests": packed("[]"),
    "very deep JSON": packed("[" * 10**5),
    "tests of another shape": packed('[{"input": 1}]'),
    "tests that are texts": packed('["a"]'),
    "mixed types": packed(json.dumps(CALLS)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_record_is_left_out_and_harms_nobody(name: str, recipe_tree: Tree, tmp_path: Path) -> None:
    wrong = lcb(question_id="wrong", private_test_cases=HOSTILE[name])
    problems, bad = load(recipe_tree, tmp_path, "livecodebench", wrong, lcb())
    assert [p.id for p in problems] == ["lcb-abc-1-a-train"]
    assert len(bad) == 1
    assert bad[0].where.endswith("line 1")
    assert bad[0].field.startswith("private_test_cases")
    assert not Path("/tmp/pmd-pickle-bomb").exists()


def test_a_zip_bomb_is_stopped_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(livecodebench, "MAX_BYTES", 1 << 20)
    bomb = base64.b64encode(zlib.compress(bytes(256 << 20), 9)).decode()
    tracemalloc.start()
    with pytest.raises(BadField, match="expands beyond 1 MB"):
        livecodebench.unpack(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


LONG = json.dumps([{**CALLS[0], "output": "[" + "0," * (1 << 20) + "0]"}])
BOMBS = {
    "lists": lcb(private_test_cases=packed("[" + "[]," * (1 << 20) + "[]]")),
    "an output": lcb(**CALL | {"private_test_cases": LONG}),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_json_bomb_is_stopped_before_it_is_built(name: str) -> None:
    tracemalloc.start()
    with pytest.raises(BadField, match="holds over 1048576 JSON values"):
        livecodebench.decode(BOMBS[name], "train", since=None, until=None, share=1.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 << 20


def test_many_large_tests_are_no_bomb() -> None:
    tests = [{"input": '1,[{\\"' * 50_000, "output": "1, " * 10_000, "testtype": "stdin"}] * 8
    assert livecodebench.unpack(packed(json.dumps(tests))) == tests


WRONG = {
    "question_content": lcb(question_content=None),
    "question_id": lcb(question_id=""),
    "contest_date": lcb(contest_date="soon"),
    "public_test_cases": lcb(public_test_cases="[{]"),
    "metadata.func_name": lcb(**{**CALL, "metadata": "{}"}),
    "metadata": lcb(**{**CALL, "metadata": "?"}),
    "": "[1]",
}


@pytest.mark.parametrize("field", WRONG)
def test_a_wrong_field_is_named(field: str, recipe_tree: Tree, tmp_path: Path) -> None:
    problems, bad = load(recipe_tree, tmp_path, "livecodebench", lcb(), WRONG[field])
    assert len(problems) == 1
    assert [(record.where.rsplit(" ", 1)[-1], record.field) for record in bad] == [("2", field)]


def test_functional_tests_are_json(recipe_tree: Tree, tmp_path: Path) -> None:
    tests = json.dumps([{**CALLS[0], "output": "six"}])
    _, bad = load(recipe_tree, tmp_path, "livecodebench", lcb(), lcb(**{**CALL, "private_test_cases": tests}))
    assert bad[0].field == "private_test_cases.0"


def test_sciknoweval_records_become_problems(recipe_tree: Tree, tmp_path: Path) -> None:
    records = [
        sci(),
        sci(type=["mcq-2-choices"], choices={"text": ["x", "y"], "label": ["A", "B"]}),
        sci(type="true_or_false", answer="True"),
        sci(type="filling", answer=" Helium "),
        sci(type="open-ended-qa"),
    ]
    types = ["mcq-4-choices", "mcq-2-choices", "true_or_false", "filling"]
    problems, bad = load(recipe_tree, tmp_path, "sciknoweval", *records, types=types)
    assert bad == []
    assert [p.verifier for p in problems] == [
        {"kind": "choice", "answer": "B", "labels": ["A", "B", "C", "D"]},
        {"kind": "choice", "answer": "B", "labels": ["A", "B"]},
        {"kind": "choice", "answer": "Yes", "labels": ["Yes", "No"]},
        {"kind": "exact", "answer": "Helium", "ignore_case": True},
    ]
    assert [p.id for p in problems] == ["records-1", "records-2", "records-3", "records-4"]
    assert problems[0].question() == "Which is a noble gas?\nA: Iron\nB: Neon\nC: Gold\nD: Zinc"
    assert "<answer>" in problems[0].messages[0].content


def test_a_byte_order_mark_does_not_matter(tmp_path: Path) -> None:
    file = tmp_path / "marked.jsonl"
    file.write_text('{"a": 1}\n', encoding="utf-8-sig")
    seen: list[Any] = []

    def decode(record: dict[str, Any], _: str) -> None:
        seen.append(record)

    assert records.load([str(file)], decode) == ([], [])
    assert seen == [{"a": 1}]


def test_a_json_array_is_read_too(recipe_tree: Tree, tmp_path: Path) -> None:
    problems, bad = load(recipe_tree, tmp_path, "sciknoweval", json.dumps([sci(), sci(answerKey="E")]))
    assert len(problems) == 1
    assert (bad[0].where.rsplit(" ", 2)[-2:], bad[0].field) == (["record", "2"], "answerKey")


def test_a_line_that_is_no_utf_8_is_a_bad_record_like_others(tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    file.write_bytes(b'{"a": 1}\r\n{"a": "\xff"}\n{"a": 3}')
    seen: list[Any] = []
    _, bad = records.load([str(file)], lambda record, id_: seen.append((record, id_)))
    assert seen == [({"a": 1}, "records-1"), ({"a": 3}, "records-3")]
    assert [(record.where, record.message[:9]) for record in bad] == [(f"{file} line 2", "no UTF-8:")]


ARRAYS = {
    "behind blank lines": (b'\n \n [{"a": 1}, {"a": 2}]\n', [1, 2], []),
    "behind a byte order mark": (b'\xef\xbb\xbf[{"a": 1}]', [1], []),
    "over lines": (b'[\n{"a": 1}\n,\n{"a": 2}\n]', [1, 2], []),
    "none": (b" [ ] ", [], []),
    "a byte that is no UTF-8": (b'[{"a": "\xff"}, {"a": "\xc3\xa9"}]', ["é"], ["record 1"]),
    "an integer of 5000 digits": (b'[{"a": 1}, {"a": ' + b"9" * 5000 + b'}, {"a": 3}]', [1, 3], ["record 2"]),
    "no object": (b'[{"a": 1}, [2], {"a": 3}]', [1, 3], ["record 2"]),
    "broken": (b'[{"a": 1}, {"a": 2, {"a": 3}]', [1], ["record 2"]),
    "never closed": (b'[{"a": 1}', [1], ["record 2"]),
    "closed too early": (b'[{"a": 1}] {"a": 2]', [1], ["record 2"]),
    "a bracket": (b"[", [], ["record 1"]),
    "very deep": (b'[{"a": 1}, ' + b"[" * 10**5 + b"]", [1], ["record 2"]),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_one_bad_record_of_an_array_spoils_no_other(name: str, tmp_path: Path) -> None:
    data, right, wrong = ARRAYS[name]
    file = tmp_path / "records.json"
    file.write_bytes(data)
    seen: list[Any] = []
    _, bad = records.load([str(file)], lambda record, _: seen.append(record["a"]))
    assert (seen, [record.where.removeprefix(f"{file} ") for record in bad]) == (right, wrong)


def test_a_large_array_takes_linear_time(tmp_path: Path) -> None:
    file = tmp_path / "records.json"
    file.write_text("[" + ", ".join('{"a": 1}' for _ in range(10**5)) + "]")
    seen: list[Any] = []
    began = time.process_time()
    assert records.load([str(file)], lambda record, _: seen.append(record)) == ([], [])
    assert (len(seen), time.process_time() - began < 5) == (10**5, True)


SCI_WRONG = {
    "answerKey": sci(answerKey="E"),
    "choices": sci(choices={"text": ["a"], "label": ["A", "B"]}),
    "choices.label": sci(choices={"text": ["a", "b"], "label": ["A", "A"]}),
    "question": sci(question=" "),
    "type": sci(type=3),
    "answer": sci(type="true_or_false", answer="maybe"),
}


@pytest.mark.parametrize("field", SCI_WRONG)
def test_a_wrong_field_of_sciknoweval_is_named(field: str, recipe_tree: Tree, tmp_path: Path) -> None:
    problems, bad = load(recipe_tree, tmp_path, "sciknoweval", SCI_WRONG[field], sci())
    assert len(problems) == 1
    assert [record.field for record in bad] == [field]


def test_recipe_paths_are_relative_to_the_recipe(tmp_path: Path) -> None:
    from pmd.gateway.recipes.files import load_recipe

    (tmp_path / "r.yaml").write_text("problems: {source: sciknoweval, files: {train: [a.jsonl], test: [s3://b/c]}}")
    files = load_recipe(tmp_path / "r.yaml")["problems"]["files"]
    assert files == {"train": [str(tmp_path / "a.jsonl")], "test": ["s3://b/c"]}


def test_more_problems_than_a_run_can_look_at_are_refused_with_what_to_do(
    recipe_tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "MAX_PROBLEMS", 3)
    file = tmp_path / "rows.csv"
    problems: dict[str, Any] = {"source": "huggingface", "files": {"train": [str(file)]}}
    problems["columns"] = {"prompt": "{{ id }}", "verifier": {"kind": "exact", "answer": "a"}}
    file.write_text("id\n" + "".join(f"{n}\n" for n in range(4)))
    with pytest.raises(InvalidRecipe, match=r"over 3 problems.*problems\.rows"):
        load_problems(parse_recipe(recipe_tree(problems=problems)).problems)
    problems["rows"] = {"train": ":3"}
    assert len(load_problems(parse_recipe(recipe_tree(problems=problems)).problems)[0]) == 3


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b"\0" * (9 << 20), "a line of it has over 1 MB"),
        ("a.csv", b"id,text\n" + b"x" * (9 << 20), "a line of it has over 1 MB"),
        ("a.jsonl", b"[\n" + b"[],\n" * (1 << 19), "an array of over 1 MB"),
        ("a.jsonl.gz", gzip.compress((b" " * 999 + b"\n") * 9000), "expands beyond"),
        ("a.csv", b"id\n" + (b" " * 9999 + b"\n") * 900, "expands beyond"),
        ("a.jsonl", b"x\n" * 2000, r"line 1002: over 1000 bad records; the first: .* line 1: no JSON"),
    ],
)
def test_what_a_file_costs_is_bounded_by_what_is_read_of_it(
    name: str, content: bytes, said: str, recipe_tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit, value in {"MAX_BYTES": 3 << 20, "MAX_LINE": 1 << 20, "MAX_BAD": 1000, "CHUNK": 1 << 16}.items():
        monkeypatch.setattr(records, limit, value)
    (tmp_path / name).write_bytes(content)
    recipe = recipe_tree(problems={"source": "jsonl", "files": [str(tmp_path / name)]})
    if ".csv" in name:
        recipe["problems"] = {"source": "huggingface", "files": {"train": recipe["problems"]["files"]}}
        recipe["problems"]["columns"] = {"prompt": "{{ id }}", "verifier": {"kind": "exact", "answer": "a"}}
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRecipe, match=said):
            load_problems(parse_recipe(recipe).problems)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
