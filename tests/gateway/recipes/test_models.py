"""A model is looked at before a run starts, and what the run takes is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pmd.gateway.recipes.models.checks import refuse
from pmd.gateway.recipes.models.estimate import disk_bytes, trained_parameters, trainer_need
from pmd.gateway.recipes.models.known import KNOWN
from pmd.gateway.recipes.models.shape import ModelError, read_facts
from pmd.gateway.recipes.problems import advise, find_base, problems_of
from pmd.gateway.recipes.recipe import Recipe

Make = Callable[..., Recipe]


def edit(model: Path, name: str, **changes: Any) -> None:
    path = model / name
    tree = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({key: value for key, value in (tree | changes).items() if value is not None}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": None}, "names no model_type"),
        ({"model_type": "mamba"}, "recurrent layers"),
        ({"layer_types": ["linear_attention"]}, "layers of kind linear_attention"),
        ({"model_type": "of_a_later_release"}, "no causal language model of the installed transformers"),
        ({"max_position_embeddings": None}, "gives no max_position_embeddings"),
        ({"eos_token_id": None}, "no end token"),
        ({"vocab_size": 1}, "has token 1, and config.json a vocabulary of 1"),
    ],
)
def test_a_model_that_cannot_work_is_refused(changes: dict[str, Any], said: str, recipe: Make, model: Path) -> None:
    edit(model, "config.json", **changes)
    with pytest.raises(ModelError, match=said):
        refuse(recipe(), read_facts(model))


def test_a_window_without_room_for_a_prompt_is_refused_by_the_key_that_asks(recipe: Make, model: Path) -> None:
    edit(model, "config.json", max_position_embeddings=512)
    with pytest.raises(ModelError, match="leaves no room for a prompt") as caught:
        refuse(recipe(sampling={"max_tokens": 512}), read_facts(model))
    assert caught.value.field == "sampling.max_tokens"


def test_what_may_go_wrong_is_said(recipe: Make, model: Path) -> None:
    (model / "chat_template.jinja").write_text("{{ messages[0].content }}")
    made = recipe(thinking="on")
    said = " ".join(advise(made, find_base(made), problems_of(made)[0]))
    assert "ends turns with none of its end tokens (<end>)" in said
    assert "thinking: on, but the chat template has no such switch" in said


def test_a_model_without_fault_has_no_warning(recipe: Make) -> None:
    assert advise(recipe(), find_base(recipe()), problems_of(recipe())[0]) == []


def test_published_sizes_are_met() -> None:
    qwen, olmo = KNOWN.values()
    assert qwen.parameters == pytest.approx(8.19e9, rel=1e-3)
    assert olmo.parameters == pytest.approx(7.30e9, rel=1e-3)


def test_states_are_the_sums_of_the_page_and_shards_divide_them(recipe: Make) -> None:
    shape = KNOWN["Qwen/Qwen3-8B"]
    made = recipe(hardware={"precision": "bf16", "zero_stage": 3}, schedule={"keep_weights": 1})
    alone, eight = trainer_need(shape, made, 1), trainer_need(shape, made, 8)
    held = alone.weights + alone.gradients + alone.optimizer + alone.teacher
    assert held == 22 * shape.parameters
    assert eight.optimizer == alone.optimizer / 8
    assert eight.teacher == (2 + 4 / 8) * shape.parameters, "the teacher is whole on each rank, its average is not"
    assert disk_bytes(shape, made) == (2 + 3 * 2 + 2 * 18) * shape.parameters


def test_what_is_offloaded_or_computed_again_is_not_held_by_the_gpu(recipe: Make) -> None:
    shape = KNOWN["Qwen/Qwen3-8B"]
    P, bf16 = shape.parameters, {"precision": "bf16", "zero_stage": 3}
    whole = trainer_need(shape, recipe(hardware=bf16), 1)
    for place, held, host in (("none", 22 * P, 0), ("optimizer", 6 * P, 22 * P)):
        need = trainer_need(shape, recipe(hardware=bf16 | {"offload": place}), 1)
        assert need.weights + need.gradients + need.optimizer + need.teacher == pytest.approx(held)
        assert need.host == pytest.approx(host)
        assert (need.activations, need.logits) == (whole.activations, whole.logits)
    again = trainer_need(shape, recipe(hardware=bf16 | {"gradient_checkpointing": True}), 1)
    assert again.activations < whole.activations / 10
    assert again.total - again.activations == whole.total - whole.activations


def test_the_teachers_weights_cost_what_the_page_says(recipe: Make) -> None:
    shape, bf16 = KNOWN["Qwen/Qwen3-8B"], {"precision": "bf16"}

    def held(weights: str, lora: dict[str, int] | None = None) -> float:
        made = recipe(hardware=bf16, teacher={"weights": weights}, policy={"lora": lora})
        return trainer_need(shape, made, 1).teacher / shape.parameters

    assert [held(weights) for weights in ("ema", "initial", "live", "trust_region")] == [6, 2, 0, 2]
    assert [held(weights, {"rank": 16}) for weights in ("initial", "live", "trust_region")] == [0, 0, 0]
    assert held("ema", {"rank": 16}) == pytest.approx(6 * 6.95e9 / 8.19e9, rel=1e-2), "all but the embeddings"


def test_an_adapter_costs_its_own_weights_beside_the_base(recipe: Make) -> None:
    shape = KNOWN["Qwen/Qwen3-8B"]
    changes = {"hardware": {"precision": "bf16"}, "teacher": {"weights": "initial"}, "schedule": {"keep_weights": 1}}
    made = recipe(policy={"lora": {"rank": 16}}, **changes)
    adapter = trained_parameters(shape, made)
    assert adapter == 43_646_976, "36 layers, rank 16 times inputs and outputs"
    need = trainer_need(shape, made, 1)
    assert need.weights == 2 * (shape.parameters + adapter)
    assert need.gradients + need.optimizer == 14 * adapter
    whole = trainer_need(shape, recipe(**changes), 1)
    assert (need.teacher, whole.teacher) == (0, 2 * shape.parameters)
    assert need.weights + need.gradients + need.optimizer < (whole.weights + whole.gradients + whole.optimizer) / 7
    assert disk_bytes(shape, made) < 1.2 * 2 * shape.parameters


def test_the_trainer_knows_where_a_falling_learning_rate_ends(recipe: Make) -> None:
    falling = recipe(schedule={"steps": 7}, optimizer={"lr": 1e-3, "decay": "cosine"}).train_settings()
    assert (falling.decay, falling.steps) == ("cosine", 7)
    assert recipe(schedule={"steps": 7}).train_settings().steps == 0, "a run's length changes no step of it"
