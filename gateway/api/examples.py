"""Examples for the OpenAPI page, one per route."""

from __future__ import annotations

from typing import Any

Responses = dict[int | str, dict[str, Any]]


_CAUSES = {
    401: ("no token or code of this installation", "no token of this installation; `pmd up` wrote it to var/token"),
    403: ("another site's page asks", "another site's page may not sign a browser in"),
    404: ("no such run, or nothing of the kind in it", "no run 'pocket-00000000'; GET /v1/runs lists them"),
    409: ("the state, or the Idempotency-Key, forbids it", "run 'pocket-1f0c2a9b' is succeeded; that is final"),
    412: ("the item has moved on", "item 'i-4be1' is at version 3 by now; look at it and try again"),
    428: ("If-Match is missing", "send If-Match with the ETag that you saw"),
    429: ("too much is under way", "too much is under way; try again"),
    503: ("out of reach", "the rollout service is out of reach (ConnectError); see GET /v1/services"),
}


def refusals(*codes: int) -> Responses:
    """Statuses other than those that every route may answer with."""
    return {
        code: {
            "description": _CAUSES[code][0],
            "content": {"application/problem+json": {"example": {"status": code, "title": _CAUSES[code][1]}}},
        }
        for code in codes
    }


def _answers(status: int, example: Any, *codes: int) -> Responses:
    return {status: {"content": {"application/json": {"example": example}}}, **refusals(*codes)}


def _body(example: Any) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": {"type": "object"}, "example": example}}}


ADD = {"level": "behavior", "text": "every k-? begins with reverse", "topic": "k"}
EDIT = {"text": "every k-? begins with a reversal"}
ACT = {"reason": "it holds for all of them"}
BULK = {"action": "ban", "dry_run": True, "where": {"level": "insight", "q": "guess"}}
ROLLBACK = {"seq": 41, "dry_run": True}
UNDO = {"dry_run": True}
SNAPSHOT = {"name": "before-review", "note": "as the machine left it"}
SEARCH = {"queries": ["reverse before adding"], "level": "insight", "limit": 10}

RECIPE: dict[str, Any] = {
    "name": "pocket",
    "model": "/models/pocket-base",
    "problems": {"source": "pocket", "kind": "code", "world": "hard"},
    "method": "pmd",
    "schedule": {"steps": 60, "problems_per_step": 32, "rollouts_per_problem": 8},
    "optimizer": {"lr": 0.0005},
    "prompts": {"teacher": "...", "reflect": "...", "abstract": "..."},
}
_RUN: dict[str, Any] = {
    "id": "pocket-1f0c2a9b",
    "name": "pocket",
    "method": "pmd",
    "status": "running",
    "step": 12,
    "steps": 60,
    "version": 12,
    "created": 1789000000.0,
    "updated": 1789000042.0,
    "error": None,
    "phases": [{"name": "rollout", "status": "succeeded", "attempt": 1, "seconds": 0.9, "error": None}],
}
_SCORE = {"problems": 64, "rollouts": 512, "pass_rate": 0.71, "pass_at": {"1": 0.71, "2": 0.78, "4": 0.83, "8": 0.86}}
_STEP: dict[str, Any] = {
    "step": 10,
    "version": 9,
    "pass_rate": 0.41,
    "outcomes": {"passed": 105, "failed": 151},
    "probe_pass_rate": 0.74,
    "lead": 0.31,
    "lr_scale": 0.93,
    "memory": {"seq": 412, "experience": 310, "insight": 96, "behavior": 14},
    "contexts": {"with_context": 251, "insight": 240, "behavior": 180, "demonstration": 60, "feedback": 12},
    "train": {"loss": 0.021, "grad_norm": 0.4},
    "evaluation": {"test": _SCORE},
    "seconds": {"rollout": 0.9, "verify": 0.3, "train": 1.1},
}
_WEIGHTS = {"version": 10, "uri": "file:///var/pmd/runs/pocket-1f0c2a9b/weights/v0010", "sha256": "9f2c..."}
_EVENT = {"seq": 7, "ts": 1789000003.1, "type": "step.completed", "payload": {"step": 1}}

_WRONG = {
    "status": 422,
    "title": "the recipe is not valid",
    "errors": [{"field": "teacher.emma", "message": "unknown key 'emma'; did you mean 'ema'?"}],
}
_INVALID: Responses = {
    422: {"description": "the recipe is not valid", "content": {"application/problem+json": {"example": _WRONG}}}
}

CREATE: Responses = {
    **_answers(201, _RUN | {"status": "queued", "step": 0, "version": 0, "phases": []}, 409),
    200: {"description": "this Idempotency-Key made the run before"},
    **_INVALID,
}
RUN_LIST = _answers(200, [_RUN | {"phases": []}], 404)
RUN = _answers(200, _RUN, 404)
DELETE: Responses = {
    **_answers(
        200,
        {
            "run": "pocket-1f0c2a9b",
            "done": True,
            "memory": {"experience": 310, "insight": 96, "behavior": 14},
            "versions": 61,
            "files": 512,
            "bytes": 91_000_000,
        },
        404,
        409,
        503,
    ),
    202: {"description": "something has to end first; ask again"},
}
FORK: Responses = {**CREATE, **refusals(404)}
STEER = _answers(200, _RUN, 404, 409)
_DOWNLOAD = {
    "kind": "model",
    "name": "Qwen/Qwen3-8B@9c925d64d72725edaf899c6cb9c377fd0709d9c5",
    "status": "downloading",
    "bytes": 3_141_592_653,
    "total_bytes": 16_381_516_800,
}
FETCH: Responses = {**_answers(200, [_DOWNLOAD], 409, 503), **_INVALID}
DOWNLOADS = _answers(200, [_DOWNLOAD])
CANCEL_DOWNLOAD = _answers(200, [_DOWNLOAD], 404)
VALIDATE: Responses = {
    **_answers(
        200,
        {
            "recipe": RECIPE,
            "steps": 60,
            "phases": {
                "0": [{"name": "publish", "service": "rollout", "kind": "publish"}],
                "1": [{"name": "rollout", "service": "rollout", "kind": "generate"}],
            },
        },
    ),
    **_INVALID,
}
EVENTS: Responses = {
    200: {
        "content": {
            "text/event-stream": {"example": 'id: 7\nevent: step.completed\ndata: {"seq": 7, "type": ...}\n\n'},
            "application/json": {"example": [_EVENT]},
        }
    },
    **refusals(404),
}
REPORT = _answers(
    200,
    {
        "run": _RUN,
        "recipe": RECIPE,
        "steps": [_STEP],
        "memory_samples": {"behavior": [ADD["text"]]},
    },
    404,
)
STEPS = _answers(200, [_STEP], 404)
_TIME = {"step": 10, "name": "rollout", "service": "rollout", "attempt": 1, "status": "succeeded"}
PHASE_TIMES = _answers(
    200, [_TIME | {"submitted": 1789000001.0, "ended": 1789000002.1, "seconds": 0.9, "error": None}], 404
)
CURVES = _answers(
    200, [{"run": _RUN["id"], "pass_rate": [[1, 0.31], [2, 0.33]], "accuracy": {"test": [[0, 0.3], [10, 0.71]]}}], 404
)
DISK = _answers(200, {"bytes": 5242880, "files": 212, "by_folder": {"steps": 1048576, "weights": 4194304}}, 404)
_ROLLOUT: dict[str, Any] = {
    "id": "p-3#1",
    "problem_id": "p-3",
    "split": "train",
    "sample": 1,
    "outcome": "failed",
    "reward": 0.0,
    "tokens": 48,
    "finish_reason": "stop",
    "policy_version": 9,
    "excerpt": "plan: reverse, add",
    "group_passed": 3,
    "group_judged": 8,
    "group_variance": 0.234,
}
ROLLOUTS = _answers(
    200,
    {"step": 10, "drawn": "train", "steps": [1, 2, 10], "total": 256, "offset": 0, "rollouts": [_ROLLOUT]},
    404,
)
_ASKS = [{"role": "user", "content": "k-t: apply the procedure"}]
ROLLOUT = _answers(
    200,
    {
        "row": _ROLLOUT,
        "step": 10,
        "drawn": "train",
        "problem": _ASKS,
        "text": "plan: reverse, add",
        "feedback": "Input: 1 2\nOutput: 4",
        "error": "",
        "sandbox_tier": "T1",
        "cpu_ms": 4.1,
        "tokens": [{"id": 17, "text": "plan", "logprob": -0.02, "teacher_logprob": -0.01}],
        "context": {
            "messages": _ASKS,
            "has_context": True,
            "items": [],
            "left_out": [],
            "demonstration": "p-3#4",
            "feedback": False,
            "seq": 18,
        },
    },
    404,
)
PROBLEM = _answers(
    200,
    {
        "id": "p-3",
        "split": "train",
        "domain": "k",
        "messages": _ASKS,
        "history": [
            {"step": 10, "drawn": "train", "policy_version": 9, "passed": 3, "judged": 8, "reward": 0.375},
        ],
    },
    404,
)
_ENDS = {"ends": 1789043200.0}
SIGN_IN = {**_answers(200, _ENDS, 401, 403)}
SESSION = _answers(200, _ENDS, 404)
CODE = _answers(200, {"code": "1789000060.q0Xw.5f1c", **_ENDS})
CHECKPOINTS = _answers(200, [{"step": 10, "weights": _WEIGHTS, "evaluation": {"test": _SCORE}}], 404)
MODELS = _answers(200, {"object": "list", "data": [{"id": "pocket-1f0c2a9b@12", "object": "model"}]})
SERVICES = _answers(
    200,
    [
        {
            "name": "rollout",
            "url": "http://127.0.0.1:8701",
            "ready": True,
            "details": {"engine": "transformers"},
            "error": None,
        }
    ],
)
_VERDICT = {
    "outcome": "failed",
    "reward": 0.0,
    "feedback": "Input: 1 2\nOutput: 4",
    "sandbox_tier": "T1",
    "cpu_ms": 4.1,
}
REVERIFY = _answers(
    200,
    {
        "judged": 256,
        "changed": 1,
        "transitions": {"failed -> failed": 150, "failed -> passed": 1, "passed -> passed": 105},
        "mean_reward_old": 0.4102,
        "mean_reward_new": 0.4141,
        "changes": [
            {
                "index": 7,
                "rollout_id": "p-3#1",
                "problem_id": "p-3",
                "old": _VERDICT,
                "new": _VERDICT | {"outcome": "passed", "reward": 1.0, "feedback": ""},
            }
        ],
        "verdicts": None,
    },
    404,
    429,
)
VERIFY = {"requestBody": _body({"items": [{"verifier": {"kind": "exact", "answer": "42"}, "completion": "42"}]})}
CHAT = {
    "requestBody": _body(
        {
            "model": "pocket-1f0c2a9b@12",
            "messages": [{"role": "user", "content": "k-t: apply the procedure"}],
            "stream": False,
        }
    )
}
