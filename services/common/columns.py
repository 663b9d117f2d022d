"""Bulk data as Parquet columns: what the artifacts hold that a `Ref` points at.

Invariants:
- Token ids and the sampler's log-probs are the truth of a rollout; its text is a convenience.
- Rows of different artifacts meet by `problem_id`, `prompt_id` and `rollout_id`.
"""

from __future__ import annotations

import pyarrow as pa

PROBLEMS = pa.schema(
    [
        ("problem_id", pa.string()),
        ("split", pa.string()),
        ("domain", pa.string()),
        ("messages", pa.string()),  # JSON of [Message]
        ("verifier", pa.string()),  # JSON of the verifier spec
    ]
)

PROMPTS = pa.schema(
    [
        ("prompt_id", pa.string()),  # unique in the artifact; the problem id, or the rollout a context is for
        ("problem_id", pa.string()),
        ("split", pa.string()),
        ("messages", pa.string()),  # JSON of [Message]
    ]
)

ROLLOUTS = pa.schema(
    [
        ("rollout_id", pa.string()),  # "<prompt_id>#<sample>", unique in the artifact
        ("prompt_id", pa.string()),
        ("problem_id", pa.string()),
        ("split", pa.string()),
        ("sample", pa.int32()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("token_ids", pa.list_(pa.int32())),  # with the end token when finish_reason is "stop"
        ("logprobs", pa.list_(pa.float32())),  # of the sampler, at its temperature, one per token id
        ("text", pa.string()),  # without special tokens
        ("finish_reason", pa.string()),  # stop | length
        ("policy_version", pa.int64()),  # of every token of this rollout
    ]
)

VERDICTS = pa.schema(
    [
        ("rollout_id", pa.string()),
        ("problem_id", pa.string()),
        ("split", pa.string()),
        ("outcome", pa.string()),
        ("reward", pa.float32()),
        ("feedback", pa.string()),
        ("sandbox_tier", pa.string()),
        ("cpu_ms", pa.float32()),
        ("error", pa.string()),  # cause of an infra_error
    ]
)

TAUGHT = pa.schema(
    [
        ("rollout_id", pa.string()),
        ("teacher_logprobs", pa.list_(pa.float32())),  # of each token id behind the teacher's context, in nats
    ]
)
"""One row for each rollout that a teacher taught in a step, at the temperature of the sampler."""

CONTEXTS = pa.schema(
    [
        ("prompt_id", pa.string()),  # the rollout this context is for, or the problem (memory_agent)
        ("problem_id", pa.string()),
        ("split", pa.string()),
        ("messages", pa.string()),  # JSON of [Message]: what the teacher is asked
        ("has_context", pa.bool_()),  # false: the messages are the student's own; masked from distillation
        ("items", pa.string()),  # JSON of [{id, version, level, text, score, credibility, reason, sources}]
        ("left_out", pa.string()),  # JSON of [{id, version, level, reason, cause}]: found and not shown
        ("turns", pa.int32()),  # pairs of messages, question and answer, that memory put before the last user turn
        ("demonstration", pa.string()),  # rollout id of the sibling shown, or null
        ("feedback", pa.bool_()),  # whether the rollout's own feedback is shown
        ("seq", pa.int64()),  # of the bank when it was read
    ]
)
"""A CONTEXTS artifact is a PROMPTS artifact with more columns, so it can be generated from (`probe`)."""
