"""`thinking` is one key of a recipe, and sampler and trainer read it alike."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from pmd.gateway.recipes.files import parse_overrides
from pmd.gateway.recipes.recipe import Recipe
from pmd.services.common.artifacts import seal_weights
from pmd.services.common.chat import chat_text
from pmd.services.common.wire import Message, Policy
from pmd.services.rollout.engines.transformers.engine import TransformersEngine
from pmd.services.rollout.settings import RolloutSettings
from tests.models.families import make_folder

ASKED = Message(role="user", content="How many?")
CLOSED = "<think></think>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder("qwen3", tmp_path_factory.mktemp("thinks"))


@pytest.mark.parametrize("thinking", [False, True])
def test_student_and_teacher_have_the_same_generation_prompt(folder: Path, thinking: bool) -> None:
    engine = TransformersEngine(RolloutSettings(token="test-token-0123456789", rollout_device="cpu"))  # type: ignore[arg-type]
    policy = Policy(run="r", weights=seal_weights(folder, 0, {}))
    (prompt,), _ = engine.render(policy, [[ASKED]], thinking)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = chat_text(tokenizer, [ASKED.model_dump()], thinking=thinking)
    assert list(prompt) == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert text.endswith(CLOSED) is not thinking


def test_off_and_on_are_words_and_not_truths() -> None:
    assert parse_overrides(["thinking=off"]) == {"thinking": "off"}
    assert parse_overrides(["thinking=on"]) == {"thinking": "on"}
    assert Recipe.model_fields["thinking"].default == "off"
