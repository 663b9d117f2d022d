"""What the jobs `generate` and `publish` do.

Invariants:
- Both are idempotent: an artifact is written once by rename, a publish is one row of SQL.
- What is drawn of a job is on disk before more is waited for: whatever dies, only what is missing is drawn again.
- A rollout's random numbers follow from the request's seed and the rollout's own id, so its tokens do not depend
  on which other prompts are asked for, or in what order.
- A prompt that leaves no room for the longest completion is answered with nothing, cut off (`length`): contexts grow
  with memory, and one that has outgrown the window must not end a run. Where no prompt fits and none holds memory,
  the request is wrong.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pmd.services.common.artifacts import load_messages, read_table, write_table
from pmd.services.common.columns import ROLLOUTS
from pmd.services.common.jobs import JobContext, JobKind
from pmd.services.common.requests import GenerateRequest, GenerateResult, PublishRequest
from pmd.services.common.strict import nearest
from pmd.services.common.wire import Policy, Ref
from pmd.services.rollout.completion import Completion, NoRoom, Row, repetition, require_room
from pmd.services.rollout.parts import Parts
from pmd.services.rollout.published import Published

if TYPE_CHECKING:
    from pmd.services.rollout.engines import Engine


log = logging.getLogger(__name__)


class PromptError(ValueError):
    """A prompt that was asked for is missing or does not fit."""


def stream_of(rollout_id: str) -> int:
    """The random stream of a rollout: 64 bits that depend on its id alone."""
    return int.from_bytes(hashlib.sha256(rollout_id.encode()).digest()[:8], "big")


def read_prompts(ref: Ref, ids: Sequence[str] | None) -> list[dict[str, Any]]:
    """The rows of `ids` in a PROMPTS artifact, in that order; all rows without `ids`.

    Raises:
        PromptError: naming an id that does not exist, and the nearest one that does.
        ArtifactError: when the artifact is not what its reference says.
    """
    wanted = None if ids is None else ("prompt_id", ids)
    prompts = {row["prompt_id"]: row for row in read_table(ref, wanted)}
    for prompt_id in ids or ():
        if prompt_id not in prompts:
            others = [row["prompt_id"] for row in read_table(ref)]
            guess = nearest(prompt_id, others)
            hint = f"did you mean {guess!r}?" if guess else f"it has {len(others)} others"
            raise PromptError(f"no prompt {prompt_id!r} in the artifact; {hint}")
    return list(prompts.values()) if ids is None else [prompts[prompt_id] for prompt_id in ids]


def generate(engine: Engine, request: GenerateRequest, context: JobContext, parts: Parts) -> GenerateResult:
    """Draw `request.n` completions of each prompt and write them as a ROLLOUTS artifact.

    Raises:
        PromptError: when an id is unknown, or no prompt leaves room for the longest completion and none holds memory.
        ArtifactError: when prompts or weights are not what their reference says.
        Cancelled: when the job was cancelled.
    """
    prompts = read_prompts(request.prompts, request.ids)
    conversations = [load_messages(prompt["messages"]) for prompt in prompts]
    rendered, window = engine.render(request.policy, conversations, request.thinking)
    too_long = _too_long(prompts, rendered, request.sampling.max_tokens, window)
    asked = [
        (prompt, sample, Row(prompt_ids, request.seed, stream_of(f"{prompt['prompt_id']}#{sample}")))
        for prompt, prompt_ids in zip(prompts, rendered, strict=True)
        for sample in range(request.n)
    ]
    fitting = [row for prompt, _, row in asked if prompt["prompt_id"] not in too_long]
    # In memory too: what is drawn is not drawn again when it is the disk that has no room for it.
    done = context.once("drawn", lambda: parts.of(context.key))
    missing = [i for i in range(len(fitting)) if i not in done]

    def keep(drawn: Mapping[int, Completion]) -> None:
        new = {missing[i]: completion for i, completion in drawn.items()}
        done.update(new)
        parts.keep(context.key, new)

    if missing:
        engine.generate(request.policy, [fitting[i] for i in missing], request.sampling, context.check, keep)
    drawn = (done[i] for i in range(len(fitting)))
    nothing = Completion([], [], "", "length", request.policy.weights.version)
    completions = [nothing if prompt["prompt_id"] in too_long else next(drawn) for prompt, _, _ in asked]
    rows = [
        {
            "rollout_id": f"{prompt['prompt_id']}#{sample}",
            "prompt_id": prompt["prompt_id"],
            "problem_id": prompt["problem_id"],
            "split": prompt["split"],
            "sample": sample,
            "prompt_ids": row.prompt_ids,
            "token_ids": completion.token_ids,
            "logprobs": completion.logprobs,
            "text": completion.text,
            "finish_reason": completion.finish_reason,
            "policy_version": completion.policy_version,
        }
        for (prompt, sample, row), completion in zip(asked, completions, strict=True)
    ]
    artifact = write_table(request.out, rows, ROLLOUTS)
    parts.drop(context.key)
    return GenerateResult(
        rollouts=artifact,
        tokens=sum(len(completion.token_ids) for completion in completions),
        truncated=sum(completion.finish_reason == "length" for completion in completions),
        repetition=sum(repetition(completion.token_ids) for completion in completions) / max(len(completions), 1),
        dtype=str(engine.details()["dtype"]),
    )


def _too_long(
    prompts: Sequence[Mapping[str, Any]], rendered: Sequence[tuple[int, ...]], max_tokens: int, window: int
) -> set[str]:
    """Ids of the prompts without room for `max_tokens`.

    Raises:
        PromptError: when that is all of them, and none holds memory.
    """
    reasons: dict[str, NoRoom] = {}
    for prompt, prompt_ids in zip(prompts, rendered, strict=True):
        try:
            require_room(prompt_ids, max_tokens, window)
        except NoRoom as reason:
            reasons[prompt["prompt_id"]] = reason
    if reasons and len(reasons) == len(prompts) and not any(prompt.get("has_context") for prompt in prompts):
        first, cause = next(iter(reasons.items()))
        raise PromptError(f"prompt {first!r}: {cause}") from cause
    if reasons:
        log.warning("prompts too long", extra={"prompts": sorted(reasons), "window": window, "max_tokens": max_tokens})
    return set(reasons)


def publish(engine: Engine, published: Published, request: PublishRequest) -> Policy:
    """Load the weights, then make them the run's desired version.

    In this order a version that cannot be loaded never becomes the desired one.
    """
    engine.load(request.policy)
    published.publish(request.policy)
    return request.policy


def job_kinds(engine: Callable[[], Engine], published: Published, parts: Parts) -> dict[str, JobKind[Any]]:
    """The jobs of this service.

    Args:
        engine: the engine; raises `NotReady` while there is none, which a job waits for.
    """
    return {
        "generate": JobKind(GenerateRequest, lambda request, context: generate(engine(), request, context, parts)),
        "publish": JobKind(PublishRequest, lambda request, _: publish(engine(), published, request)),
    }
