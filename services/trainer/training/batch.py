"""From a step's artifacts to the batch that one training step consumes.

Invariants:
- The student's prompt is exactly the rollout's `prompt_ids`: no context can enter it (Law 1).
- The batch is a function of rollouts, verdicts, contexts and request alone. `pmd` with memory off therefore
  gives the batch of `sdpo`, byte for byte (Law 2, `digest`).
- An infrastructure failure is not a zero reward: such rollouts are neither trained on nor part of their group's
  mean (Law 5).
- Order: problems as they first appear in the rollouts, then samples by number. Mini-batches are dealt from that order.
"""

from __future__ import annotations

import hashlib
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any

from pmd.services.common.artifacts import load_messages
from pmd.services.common.chat import Tokenizer, chat_text, encode
from pmd.services.common.requests import TrainRequest
from pmd.services.common.wire import Outcome
from pmd.services.trainer.training.objectives import LOSSES
from pmd.services.trainer.training.objectives.blend import reward_share
from pmd.services.trainer.training.objectives.grpo import group_advantages
from pmd.services.trainer.training.objectives.problems import pass_rate_weights

Row = Mapping[str, Any]


class BatchError(ValueError):
    """The artifacts of a step don't fit together; the message names the rollout and what is missing."""


@dataclass(frozen=True)
class Sample:
    """One rollout as the objectives see it."""

    rollout_id: str
    problem_id: str
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    sampler_logps: tuple[float, ...]
    """Nats, one per completion token, as the rollout engine drew them."""
    teacher_ids: tuple[int, ...]
    """The teacher's prompt; empty without a teacher and when the sample is not trained."""
    reward: float
    advantage: float
    trained: bool
    """False: masked. The sample counts in the number of sequences and nowhere else."""
    reward_share: float = 0.0
    """Share of GRPO's loss, where the loss is a blend."""
    weight: float = 1.0
    """What its problem counts for; 0: it is not trained on, but the mean is over it too."""


@dataclass(frozen=True)
class TrainBatch:
    """All samples of a training step, masked ones included."""

    samples: tuple[Sample, ...]

    @property
    def masked(self) -> int:
        """Samples that the loss leaves out."""
        return sum(not sample.trained for sample in self.samples)

    @property
    def tokens(self) -> int:
        """Completion tokens that the loss sees."""
        return sum(len(sample.completion_ids) for sample in self.samples if sample.trained)

    def mini_batches(self, count: int) -> list[tuple[Sample, ...]]:
        """The samples in `count` shares, sizes as equal as possible, none empty.

        The first samples of all problems, then the second ones, and so on, cut in `count`: each share sees as many
        problems as it can. Eight rollouts of four problems say hardly more than one of each, and what such shares
        disagree about (which digit is likely at all) hides what they have in common.
        """
        place: dict[str, int] = defaultdict(int)
        rounds: dict[int, list[Sample]] = defaultdict(list)
        for sample in self.samples:
            rounds[place[sample.problem_id]].append(sample)
            place[sample.problem_id] += 1
        dealt = [sample for each in rounds.values() for sample in each]
        count = min(count, len(dealt))
        return [tuple(dealt[i * len(dealt) // count : (i + 1) * len(dealt) // count]) for i in range(count)]


def digest(batch: TrainBatch) -> str:
    """sha256 over every byte that training reads of a batch, and over its order."""
    sha = hashlib.sha256()
    for s in batch.samples:
        for text in (s.rollout_id, s.problem_id):
            data = text.encode()
            sha.update(struct.pack("<q", len(data)) + data)
        for ids in (s.prompt_ids, s.completion_ids, s.teacher_ids):
            sha.update(struct.pack(f"<q{len(ids)}q", len(ids), *ids))
        sha.update(struct.pack(f"<q{len(s.sampler_logps)}d", len(s.sampler_logps), *s.sampler_logps))
        sha.update(struct.pack("<dd?dd", s.reward, s.advantage, s.trained, s.reward_share, s.weight))
    return sha.hexdigest()


def assemble(
    rollouts: Iterable[Row],
    verdicts: Iterable[Row],
    contexts: Iterable[Row] | None,
    request: TrainRequest,
    tokenizer: Tokenizer,
    window: int,
) -> TrainBatch:
    """The batch of a step.

    Masked are: rollouts whose verdict is `infra_error`, problems in `request.masked_problems`, empty
    completions, prompts longer than `max_prompt_tokens`, problems that count for nothing; and, where a teacher alone
    teaches, rollouts without context and those whose problem alone leaves the teacher no room for a context.

    Args:
        rollouts: rows of schema ROLLOUTS.
        verdicts: rows of schema VERDICTS, one per rollout, in any order.
        contexts: rows of schema CONTEXTS, one per rollout, in any order; read only where there is a teacher.
        tokenizer: of the run's base model.
        window: longest sequence that the model was made for, in tokens; teacher prompts leave room in it for
            the completion.

    Raises:
        BatchError: when a rollout has no verdict or no context row, or its log-probs don't match its tokens.
    """
    settings = request.settings
    rows = _ordered(rollouts)
    judged = {row["rollout_id"]: row for row in verdicts}
    for row in rows:
        if row["rollout_id"] not in judged:
            raise BatchError(f"rollout {row['rollout_id']} has no verdict; were these artifacts of one step?")
        if len(row["token_ids"]) != len(row["logprobs"]):
            raise BatchError(
                f"rollout {row['rollout_id']} has {len(row['token_ids'])} tokens, but"
                f" {len(row['logprobs'])} log-probs; the rollout engine must record one a token"
            )
    rewards = [float(judged[row["rollout_id"]]["reward"]) for row in rows]
    trained = [
        judged[row["rollout_id"]]["outcome"] != Outcome.INFRA_ERROR
        and row["problem_id"] not in request.masked_problems
        and bool(row["token_ids"])
        and len(row["prompt_ids"]) <= settings.max_prompt_tokens
        for row in rows
    ]
    teacher_ids: list[tuple[int, ...]] = [()] * len(rows)
    kind = LOSSES[settings.loss]
    if kind.reads_teacher:
        if contexts is None:
            raise BatchError(f"loss {settings.loss!r} needs teacher contexts, and the request has none")
        passed = [judged[row["rollout_id"]]["outcome"] == Outcome.PASSED for row in rows]
        taught = [
            each and not (settings.route == "failed" and right) for each, right in zip(trained, passed, strict=True)
        ]
        teacher_ids = _teacher_prompts(rows, taught, contexts, request, tokenizer, window)
        if not kind.trains_all:
            trained = [bool(ids) for ids in teacher_ids]
    shares = [reward_share(bool(ids), settings) if settings.loss == "blend" else 0.0 for ids in teacher_ids]
    groups = [row["problem_id"] for row in rows]
    advantages = group_advantages(rewards, groups, trained, normalise=settings.advantage == "std")
    by_problem = _problem_weights(rows, judged, trained) if settings.problem_weights == "pass_rate" else {}
    weights = [by_problem.get(group, 1.0) if each else 1.0 for each, group in zip(trained, groups, strict=True)]
    trained = [each and weight > 0 for each, weight in zip(trained, weights, strict=True)]
    return TrainBatch(
        tuple(
            Sample(
                rollout_id=row["rollout_id"],
                problem_id=row["problem_id"],
                prompt_ids=tuple(row["prompt_ids"]),
                completion_ids=tuple(row["token_ids"]),
                sampler_logps=tuple(row["logprobs"]),
                teacher_ids=ids if is_trained else (),
                reward=reward,
                advantage=advantage,
                trained=is_trained,
                reward_share=share,
                weight=weight,
            )
            for row, ids, reward, advantage, is_trained, share, weight in zip(
                rows, teacher_ids, rewards, advantages, trained, shares, weights, strict=True
            )
        )
    )


def _problem_weights(rows: list[Row], judged: Mapping[str, Row], trained: Sequence[bool]) -> dict[str, float]:
    """What the problems of a batch count for, by the pass rates of their rollouts; of those that are trained."""
    passed: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        outcome = judged[row["rollout_id"]]["outcome"]
        if outcome != Outcome.INFRA_ERROR:
            passed[row["problem_id"]].append(outcome == Outcome.PASSED)
    counted = {row["problem_id"] for row, is_trained in zip(rows, trained, strict=True) if is_trained}
    return pass_rate_weights({p: sum(each) / len(each) for p, each in passed.items() if p in counted})


def _ordered(rollouts: Iterable[Row]) -> list[Row]:
    """Rollouts by first appearance of their problem, then by prompt and sample number."""
    rows = list(rollouts)
    first = {problem: i for i, problem in enumerate(dict.fromkeys(row["problem_id"] for row in rows))}
    return sorted(rows, key=lambda row: (first[row["problem_id"]], row["prompt_id"], row["sample"]))


def _teacher_prompts(
    rows: list[Row],
    trained: list[bool],
    contexts: Iterable[Row],
    request: TrainRequest,
    tokenizer: Tokenizer,
    window: int,
) -> list[tuple[int, ...]]:
    """Token ids of each row's teacher prompt; empty for a row that has nothing to learn from."""
    by_rollout = {row["prompt_id"]: row for row in contexts}
    for row in rows:
        if row["rollout_id"] not in by_rollout:
            raise BatchError(f"rollout {row['rollout_id']} has no context row; `retrieve` writes one per rollout")
    taught = [i for i, row in enumerate(rows) if trained[i] and by_rollout[row["rollout_id"]]["has_context"]]
    if not taught:
        return [()] * len(rows)
    conversations = [
        [message.model_dump() for message in load_messages(by_rollout[rows[i]["rollout_id"]]["messages"])]
        for i in taught
    ]
    render = partial(chat_text, tokenizer, thinking=request.thinking)
    texts = [render(conversation) for conversation in conversations]
    encoded = encode(tokenizer, texts)
    prompts: list[tuple[int, ...]] = [()] * len(rows)
    for i, conversation, text, ids in zip(taught, conversations, texts, encoded, strict=True):
        limit = min(request.settings.max_teacher_tokens, window - len(rows[i]["token_ids"]))
        turns = by_rollout[rows[i]["rollout_id"]].get("turns") or 0
        prompts[i] = _within(conversation, turns, text, ids, rows[i]["prompt_ids"], limit, tokenizer, render)
    return prompts


def _within(
    conversation: list[dict[str, str]],
    turns: int,
    text: str,
    ids: list[int],
    student_ids: list[int],
    limit: int,
    tokenizer: Tokenizer,
    render: Callable[[list[dict[str, str]]], str],
) -> tuple[int, ...]:
    """A teacher prompt of at most `limit` tokens: without the first of its turns, which are the farthest, as many as it
    takes, then cut inside its memory block. Empty where nothing is left but what the student reads.

    Args:
        turns: pairs of messages that memory put before the last user turn.
        render: the chat format.
    """
    last = max(n for n, message in enumerate(conversation) if message["role"] == "user")
    for gone in range(1, turns + 1):
        if len(ids) <= limit:
            return tuple(ids)
        shorter = [*conversation[: last - 2 * turns], *conversation[last - 2 * (turns - gone) :]]
        text = render(shorter)
        (ids,) = encode(tokenizer, [text])
    if turns and list(ids) == list(student_ids):
        return ()
    if len(ids) <= limit:
        return tuple(ids)
    return tuple(_cut(text, conversation[-1]["content"], student_ids, limit, tokenizer))


def _cut(text: str, last_turn: str, prompt_ids: list[int], limit: int, tokenizer: Tokenizer) -> list[int]:
    """A teacher prompt of at most `limit` tokens: [problem, shortened block][closing request, generation prompt].

    The closing request is the last line of the last turn, so teacher templates end with it. Everything from there
    on stays; what stands before it loses its end. What the student's prompt shares with it (system turn and
    problem) must stay whole: where even that does not fit, there is no teacher, and the result is empty.
    """
    lines = last_turn.rstrip().splitlines()
    closing = text.rfind(lines[-1]) if lines else 0
    body_ids, closing_ids = encode(tokenizer, [text[:closing], text[closing:]])
    room = limit - len(closing_ids)
    problem = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(body_ids, prompt_ids, strict=False)))
    return [*body_ids[:room], *closing_ids] if room > problem else []
