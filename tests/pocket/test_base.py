"""The committed base: what it promises to the services, and each of its skills on a small sample."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase  # noqa: E402

from pmd.examples.pocket import make_base  # noqa: E402
from pmd.examples.pocket.corpus import draw_text  # noqa: E402
from pmd.examples.pocket.skills import (  # noqa: E402
    SKILLS,
    base_accuracy,
    effective_procedures,
    encode_prompts,
    measure,
    sample,
)
from pmd.examples.pocket.world import KINDS, VOCABULARIES, WorldName, problem_sets  # noqa: E402

BASE = Path(make_base.__file__).parent / "base"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(BASE)


@pytest.fixture(scope="module")
def model() -> Iterator[PreTrainedModel]:
    # Sampling is compared across calls, and other tests must find torch's generator as it was.
    with torch.random.fork_rng():
        yield AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)


def test_the_folder_is_small_and_ordinary() -> None:
    assert sum(path.stat().st_size for path in BASE.iterdir()) <= 8_000_000
    config = json.loads((BASE / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert config["head_dim"] in (32, 64)
    generation = json.loads((BASE / "generation_config.json").read_text())
    assert generation["eos_token_id"] == config["eos_token_id"]


@pytest.mark.parametrize(
    "text",
    [
        "Plan zor-mil: rotate then add 3.",
        " a\n\n\tb  c\r\n",
        "naïve 漢字 🙂 \x00",
        "[3, -14, 15]",
        "zor-mil:  not",
        "",
        " 1 2 34",
    ],
)
def test_any_text_survives_the_tokenizer(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_corpus_texts_survive_the_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    rng = random.Random(0)
    for text in (draw_text(rng) for _ in range(300)):
        for turn in (text.prompt, text.completion):
            assert tokenizer.decode(tokenizer(turn, add_special_tokens=False)["input_ids"]) == turn


def test_digits_and_symbols_are_single_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.convert_ids_to_tokens(tokenizer("3142", add_special_tokens=False)["input_ids"]) == list("3142")
    for vocabulary in VOCABULARIES.values():
        for family in vocabulary.families:
            assert len(tokenizer(f" {family}", add_special_tokens=False)["input_ids"]) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_student_prompts_are_short(tokenizer: PreTrainedTokenizerBase, kind: str) -> None:
    records = problem_sets(kind, "hard", 0)["train"]  # type: ignore[arg-type]
    lengths = [len(ids) for ids in encode_prompts(tokenizer, [r["messages"][0]["content"] for r in records])]
    assert max(lengths) <= 48


def test_the_base_knows_no_family_and_wastes_no_procedure(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    assert effective_procedures(model, tokenizer, "hard", problems=4) > 0.9 * 64
    assert effective_procedures(model, tokenizer, "easy", problems=4) > 0.9 * 24
    assert base_accuracy(model, tokenizer, "hard", problems=128) <= 0.06


WEAK = (
    "both behaviors, distractors",
    "reflect, failures",
    "abstract, one symbol",
    "abstract, two symbols",
    "abstract, one family",
    "abstract, unrelated",
)
"""What the committed base does 44 to 84 times in 100 (README.md, open problems)."""

MASTERED = tuple(name for name in SKILLS if not name.startswith(WEAK))


@pytest.mark.parametrize("world", [pytest.param("easy", marks=pytest.mark.slow), "hard"])
def test_the_base_follows_advice_and_reflects(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, world: WorldName
) -> None:
    rates = measure(model, tokenizer, world, names=MASTERED, samples=8)
    assert sum(rates.values()) / len(rates) >= 0.95, rates
    assert min(rates.values()) >= 0.6, rates


@pytest.mark.xfail(
    strict=True,
    reason="the committed base counts notes badly: abstraction, and which old strategies failures refute; a larger "
    "share of such texts and a longer run of make_base should mend it (README.md, open problems)",
)
def test_the_base_has_every_skill(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    weak = [name for name in SKILLS if name not in MASTERED]
    rates = measure(model, tokenizer, "hard", names=weak, samples=24)
    assert min(rates.values()) >= 0.9, rates


def test_sampling_is_a_function_of_the_seed(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    prompts = [r["messages"][0]["content"] for r in problem_sets("code", "hard", 0, train=8)["train"]]
    assert sample(model, tokenizer, prompts, seed=1) == sample(model, tokenizer, prompts, seed=1)
    assert sample(model, tokenizer, prompts, seed=1) != sample(model, tokenizer, prompts, seed=2)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_short_run_of_the_script_reaches_the_skills_on_a_smaller_scale(tmp_path: Path) -> None:
    make_base.main(["--small", "--steps", "300", "--samples", "8", "--out", str(tmp_path)])
    rates = measure(
        AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32),
        AutoTokenizer.from_pretrained(tmp_path),
        "easy",
        names=[name for name in MASTERED if "(choice)" not in name],
        samples=30,
    )
    assert sum(rates.values()) / len(rates) >= 0.85, rates
    assert min(rates.values()) >= 0.6, rates
