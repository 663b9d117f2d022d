"""What enters a training step, and what never does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_run import SETTINGS, WINDOW, rows
from transformers import AutoTokenizer

from pmd.services.common.artifacts import dump_messages
from pmd.services.common.requests import TrainRequest
from pmd.services.common.wire import Message, Ref, Weights
from pmd.services.trainer.training.batch import BatchError, TrainBatch, assemble, digest


@pytest.fixture(scope="module")
def tokenizer(base_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(base_folder)


def request_for(base: Weights, **changes: Any) -> TrainRequest:
    nothing = Ref(uri="", sha256="", bytes=0)
    fields = {
        "run": "r",
        "step": 0,
        "base": base,
        "from_version": 0,
        "rollouts": nothing,
        "verdicts": nothing,
        "settings": SETTINGS.model_copy(update=changes.pop("settings", {})),
        "seed": 0,
        "out": "",
    }
    return TrainRequest(**fields | changes)


def test_student_prompt_is_the_rollouts_own_and_no_context_enters_it(base: Weights, tokenizer: Any) -> None:
    rollouts, verdicts, contexts = rows()
    batch = assemble(rollouts, verdicts, contexts, request_for(base), tokenizer, WINDOW)
    by_id = {row["rollout_id"]: row for row in rollouts}
    assert all(list(s.prompt_ids) == by_id[s.rollout_id]["prompt_ids"] for s in batch.samples)
    other = [row | {"messages": dump_messages([Message(role="user", content="w1 w2")])} for row in contexts]
    changed = assemble(rollouts, verdicts, other, request_for(base), tokenizer, WINDOW)
    assert [s.prompt_ids for s in changed.samples] == [s.prompt_ids for s in batch.samples]
    assert [s.teacher_ids for s in changed.samples] != [s.teacher_ids for s in batch.samples]


def test_teacher_prompt_is_the_context_in_chat_format(base: Weights, tokenizer: Any) -> None:
    rollouts, verdicts, contexts = rows(problems=1, samples=1)
    contexts[0]["messages"] = dump_messages([Message(role="user", content="w1 w2 w3")])
    (sample,) = assemble(rollouts, verdicts, contexts, request_for(base), tokenizer, WINDOW).samples
    assert tokenizer.decode(sample.teacher_ids) == "<user> w1 w2 w3 <end> <assistant>"


def test_batch_does_not_depend_on_the_order_of_verdicts_and_contexts(base: Weights, tokenizer: Any) -> None:
    rollouts, verdicts, contexts = rows()
    one = assemble(rollouts, verdicts, contexts, request_for(base), tokenizer, WINDOW)
    two = assemble(rollouts, verdicts[::-1], contexts[::-1], request_for(base), tokenizer, WINDOW)
    assert one == two
    assert digest(one) == digest(two)


def test_digest_sees_every_field(base: Weights, tokenizer: Any) -> None:
    rollouts, verdicts, contexts = rows(problems=1, samples=2)

    def sha(
        rollout: dict[str, Any] | None = None,
        verdict: dict[str, Any] | None = None,
        context: dict[str, Any] | None = None,
        **changes: Any,
    ) -> str:
        r, v = [rollouts[0] | (rollout or {}), rollouts[1]], [verdicts[0] | (verdict or {}), verdicts[1]]
        c = [contexts[0] | (context or {}), contexts[1]]
        return digest(assemble(r, v, c, request_for(base, **changes), tokenizer, WINDOW))

    first = rollouts[0]
    same = sha()
    assert sha() == same
    changed = [
        sha({"prompt_ids": [*first["prompt_ids"], 7]}),
        sha({"token_ids": [9, *first["token_ids"][1:]]}),
        sha({"logprobs": [-0.5, *first["logprobs"][1:]]}),
        sha(verdict={"reward": 0.25}),
        sha(verdict={"outcome": "infra_error"}),
        sha(context={"messages": dump_messages([Message(role="user", content="w1 w2")])}),
        sha(masked_problems=("p0",)),
    ]
    assert len({same, *changed}) == 8


def trained(batch: TrainBatch) -> set[str]:
    return {s.rollout_id for s in batch.samples if s.trained}


def test_infra_errors_gated_problems_and_missing_contexts_are_masked(base: Weights, tokenizer: Any) -> None:
    rollouts, verdicts, contexts = rows(problems=3, samples=3)
    verdicts[0]["outcome"] = "infra_error"
    contexts[1]["has_context"] = False
    rollouts[2] |= {"token_ids": [], "logprobs": []}
    request = request_for(base, masked_problems=("p2",))
    batch = assemble(rollouts, verdicts, contexts, request, tokenizer, WINDOW)
    assert trained(batch) == {"p1#0", "p1#1", "p1#2"}
    assert batch.masked == 6
    assert len(batch.samples) == 9
    assert all(not s.teacher_ids and s.advantage == 0.0 for s in batch.samples if not s.trained)


def test_a_prompt_that_is_too_long_is_masked(base: Weights, tokenizer: Any) -> None:
    rollouts, verdicts, contexts = rows(problems=2, samples=1)
    rollouts[0]["prompt_ids"] = [2] * 30
    request = request_for(base, settings={"max_prompt_tokens": 29})
    assert trained(assemble(rollouts, verdicts, contexts, request, tokenizer, WINDOW)) == {"p1#0"}


def test_samples_stand_by_problem_and_number_however_they_were_written(base: Weights, tokenizer: Any) -> None:
    rollouts, verdicts, contexts = rows(problems=2, samples=3)
    mixed = [rollouts[i] for i in (2, 5, 0, 3, 4, 1)]
    batch = assemble(mixed, verdicts, contexts, request_for(base), tokenizer, WINDOW)
    assert [s.rollout_id for s in batch.samples] == [f"p{p}#{n}" for p in range(2) for n in range(3)]


def test_grpo_reads_no_context_and_keeps_infra_errors_out_of_the_group(base: Weights, tokenizer: Any) -> None:
    rollouts, verdicts, _ = rows(problems=1, samples=3)
    for verdict, outcome, reward in zip(verdicts, ("passed", "failed", "infra_error"), (1.0, 0.0, 0.0), strict=True):
        verdict |= {"outcome": outcome, "reward": reward}
    request = request_for(base, settings={"loss": "grpo"})
    batch = assemble(rollouts, verdicts, None, request, tokenizer, WINDOW)
    assert [s.advantage for s in batch.samples] == [0.5, -0.5, 0.0]
    assert [s.trained for s in batch.samples] == [True, True, False]
    assert all(not s.teacher_ids for s in batch.samples)


def test_mini_batches_are_equal_shares_of_as_many_problems_as_possible(base: Weights, tokenizer: Any) -> None:
    batch = assemble(*rows(problems=5, samples=2), request_for(base), tokenizer, WINDOW)
    shares = batch.mini_batches(2)
    assert [[s.rollout_id for s in share] for share in shares] == [[f"p{n}#{i}" for n in range(5)] for i in range(2)]
    assert [len(share) for share in batch.mini_batches(4)] == [2, 3, 2, 3]
    assert sorted(s.rollout_id for share in batch.mini_batches(4) for s in share) == sorted(
        s.rollout_id for s in batch.samples
    )
    assert len(batch.mini_batches(32)) == 10, "none is empty"


def cut_prompt(base: Weights, tokenizer: Any, limit: int, room: int = WINDOW) -> str:
    """The teacher's prompt of at most `limit` tokens, in a window that leaves it `room`."""
    rollouts, verdicts, contexts = rows(problems=1, samples=1)
    ids = [2, *(tokenizer.convert_tokens_to_ids(f"w{i}") for i in (10, 11, 12)), 1, 4]
    rollouts[0]["prompt_ids"] = ids
    content = "w10 w11 w12\n\nw20 w21 w22 w23 w24 w25\nw30 w31"
    contexts[0]["messages"] = dump_messages([Message(role="user", content=content)])
    request = request_for(base, settings={"max_teacher_tokens": limit})
    window = room + len(rollouts[0]["token_ids"])
    (sample,) = assemble(rollouts, verdicts, contexts, request, tokenizer, window).samples
    assert len(sample.teacher_ids) <= min(limit, room)
    return str(tokenizer.decode(sample.teacher_ids))


def test_long_teacher_prompt_is_cut_inside_its_block(base: Weights, tokenizer: Any) -> None:
    whole = "<user> w10 w11 w12 w20 w21 w22 w23 w24 w25 w30 w31 <end> <assistant>"
    assert cut_prompt(base, tokenizer, 14) == whole
    assert cut_prompt(base, tokenizer, 10) == "<user> w10 w11 w12 w20 w21 w30 w31 <end> <assistant>"
    assert cut_prompt(base, tokenizer, 14, room=10) == cut_prompt(base, tokenizer, 10)
    assert cut_prompt(base, tokenizer, 8) == ""  # the problem alone fills it: nothing to learn from, masked


def test_a_long_teacher_prompt_loses_its_farthest_turns_first_and_is_none_without_them(
    base: Weights, tokenizer: Any
) -> None:
    rollouts, verdicts, contexts = rows(problems=1, samples=1)
    rollouts[0]["prompt_ids"] = tokenizer("<user> w10 <end> <assistant>", add_special_tokens=False)["input_ids"]
    said = [("user", "w11"), ("assistant", "w21"), ("user", "w12"), ("assistant", "w22"), ("user", "w10")]
    contexts[0] |= {"messages": dump_messages([Message(role=r, content=t) for r, t in said]), "turns": 2}  # type: ignore[arg-type]

    def prompt(limit: int) -> str:
        request = request_for(base, settings={"max_teacher_tokens": limit})
        (sample,) = assemble(rollouts, verdicts, contexts, request, tokenizer, WINDOW).samples
        assert len(sample.teacher_ids) <= limit
        return str(tokenizer.decode(sample.teacher_ids))

    whole, one = prompt(1000), prompt(15)
    assert [word in whole for word in ("w11", "w21", "w12", "w22")] == [True] * 4
    assert [word in one for word in ("w11", "w21", "w12", "w22", "w10")] == [False, False, True, True, True]
    assert prompt(6) == "", "what is left is the student's own prompt"


def test_artifacts_that_do_not_fit_together_are_refused_by_name(base: Weights, tokenizer: Any) -> None:
    rollouts, verdicts, contexts = rows(problems=1, samples=2)
    with pytest.raises(BatchError, match="p0#1 has no verdict"):
        assemble(rollouts, verdicts[:1], contexts, request_for(base), tokenizer, WINDOW)
    with pytest.raises(BatchError, match="p0#1 has no context"):
        assemble(rollouts, verdicts, contexts[:1], request_for(base), tokenizer, WINDOW)
    with pytest.raises(BatchError, match="needs teacher contexts"):
        assemble(rollouts, verdicts, None, request_for(base), tokenizer, WINDOW)
    rollouts[0]["logprobs"] = [0.0]
    with pytest.raises(BatchError, match="p0#0 has"):
        assemble(rollouts, verdicts, contexts, request_for(base), tokenizer, WINDOW)
