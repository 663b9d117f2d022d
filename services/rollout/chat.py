"""`POST /v1/chat/completions` as OpenAI's clients speak it.

Invariants:
- A field that OpenAI does not have is refused by name (Law 11), and so is one that it has and that would change the
  text as this service can't (`UNSUPPORTED`), unless its value changes nothing. Fields without a bearing on the text
  (`IGNORED`) are accepted and have no effect. A field that is null says what leaving it out says.
- The answer's `model` is `<run>@<version>`: which weights answered, whatever name the client asked for.
- The same request with a `seed` gives the same answer from the same weights, up to floating-point rounding; in an
  announced burst (`metadata.batch`), bit for bit.

The engine draws a batch to its end, so a stream carries each choice in one piece.
"""

from __future__ import annotations

import json
import secrets
import time
import uuid
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from pmd.services.common.strict import Strict
from pmd.services.common.wire import MAX_TOKENS, Message, Policy, Sampling, Temperature
from pmd.services.rollout.batching import Burst
from pmd.services.rollout.completion import Completion, Row

IGNORED = frozenset(
    [
        "moderation",
        "parallel_tool_calls",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    ]
)
"""Fields of OpenAI's schema that change no text: they have no effect here."""

UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "presence_penalty": (0,),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "verbosity": ("medium",),
    "web_search_options": (),
}
"""Fields of OpenAI's schema that would change the text as this service can't, and their values that change nothing."""


ANSWERED = frozenset(["annotations", "audio", "function_call", "refusal", "tool_calls"])
"""Fields of an answer of OpenAI's, which clients send back with the conversation; this service only has their null."""


class TextPart(Strict):
    """A piece of a message; text is the only kind."""

    type: Literal["text"]
    text: str


class Turn(Strict):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None
    """Accepted, without effect."""

    @model_validator(mode="before")
    @classmethod
    def _ignore(cls, data: Any) -> Any:
        return without_nulls(data, ANSWERED) if isinstance(data, dict) else data

    def message(self) -> Message:
        """This turn in the words of the other services; developer is OpenAI's newer word for system."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message(role="system" if self.role == "developer" else self.role, content=text)


def _unsupported(field: str) -> PydanticCustomError:
    same = " or ".join(json.dumps(value) for value in UNSUPPORTED[field])
    hint = f"leave it out, or send {same}" if same else "leave it out"
    # As a value of the template: braces in a template would be names.
    return PydanticCustomError("unsupported", "not supported: it would change the text; {hint}", {"hint": hint})


def without_nulls(data: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """`data` without those of `names` that are null."""
    return {key: value for key, value in data.items() if value is not None or key not in names}


class StreamOptions(Strict):
    """What a stream holds besides the choices."""

    include_usage: bool = False
    """One more event, without choices, that counts the tokens."""
    include_obfuscation: bool = False
    """Accepted, without effect."""


class ChatRequest(Strict):
    """What OpenAI's clients send."""

    model: str
    """`<run>` for its published version, `<run>@<version>` for one version; `GET /v1/models` lists them."""
    messages: list[Turn] = Field(min_length=1)
    temperature: Temperature = 1.0
    """0 is greedy."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    """Longest completion, in tokens; None means the service's default, less when the context window is short."""
    max_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    """Older name of `max_completion_tokens`, which wins."""
    n: int = Field(default=1, ge=1, le=128)
    """Choices to draw."""
    seed: int | None = None
    """Fixes the random numbers; None draws fresh ones."""
    stop: str | list[str] | None = Field(default=None)
    """Texts that end a choice; the text is cut before the first of them."""
    logprobs: bool = False
    """Return the log-prob of every token."""
    top_logprobs: int | None = Field(default=None, ge=0, le=0)
    """Only 0: the alternatives to a token are not kept."""
    stream: bool = False
    """Answer as server-sent events."""
    stream_options: StreamOptions = StreamOptions()
    metadata: dict[str, str] | None = None
    """`batch`, `batch_size` and `index` announce a burst: that many requests are drawn together, in that order."""

    @model_validator(mode="before")
    @classmethod
    def _ignore(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        data = without_nulls(data, (*cls.model_fields, *UNSUPPORTED))
        told = data.get("response_format")
        if isinstance(told, dict) and told.get("type") == "json_schema":  # this engine leaves the text as it is
            del data["response_format"]
        wrong = [key for key, same in UNSUPPORTED.items() if key in data and data[key] not in same]
        if wrong:
            details = [InitErrorDetails(type=_unsupported(key), loc=(key,), input=data[key]) for key in wrong]
            raise ValidationError.from_exception_data(cls.__name__, details)
        return {key: value for key, value in data.items() if key not in IGNORED and key not in UNSUPPORTED}

    @model_validator(mode="after")
    def _check_burst(self) -> ChatRequest:
        self.burst()
        return self

    def burst(self) -> Burst | None:
        """The burst that `metadata` announces.

        Raises:
            ValueError: when `batch_size` or `index` is no number.
        """
        facts = self.metadata or {}
        if "batch" not in facts:
            return None
        try:
            return Burst(facts["batch"], int(facts["batch_size"]), int(facts.get("index", "0")))
        except (KeyError, ValueError) as error:
            raise ValueError("metadata.batch needs batch_size and index, both numbers written as strings") from error

    def sampling(self, prompt_tokens: int, window: int, default: int) -> Sampling:
        """How to draw; without a length in the request, at most `default` tokens and what the window leaves."""
        asked = self.max_completion_tokens or self.max_tokens
        max_tokens = asked or max(1, min(default, window - prompt_tokens))
        return Sampling(temperature=self.temperature, top_p=self.top_p, max_tokens=max_tokens)

    def rows(self, prompt_ids: tuple[int, ...]) -> list[Row]:
        """One row per choice."""
        seed = secrets.randbits(63) if self.seed is None else self.seed
        return [Row(prompt_ids, seed, choice) for choice in range(self.n)]

    def stops(self) -> list[str]:
        """The texts that end a choice."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [stop for stop in stops if stop]


class TokenLogprob(Strict):
    """A token of a choice and its log-prob under the sampling distribution."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[str] = []


class ChoiceLogprobs(Strict):
    content: list[TokenLogprob]


class Answer(Strict):
    role: Literal["assistant"] = "assistant"
    content: str


class Choice(Strict):
    index: int
    message: Answer
    logprobs: ChoiceLogprobs | None = None
    finish_reason: Literal["stop", "length"]


class Usage(Strict):
    """Tokens of the prompt (once, however many choices) and of all completions, as drawn."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletion(Strict):
    """What OpenAI's clients read."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    """Unix seconds."""
    model: str
    """`<run>@<version>`."""
    choices: list[Choice]
    usage: Usage


def cut(tokens: Sequence[str], text: str, stops: Sequence[str]) -> tuple[str, int] | None:
    """`text` before the first of `stops`, and how many tokens it takes to say so; None when it holds none.

    Args:
        tokens: each token as text; a stop may begin inside one and end in another. The count is a little low when
            a character is spread over several tokens, for each of them is read as a character of its own.
    """
    found = [place for place in map(text.find, stops) if place >= 0]
    if not found:
        return None
    ends = [0]
    for token in tokens:
        ends.append(ends[-1] + len(token))
    return text[: min(found)], bisect_left(ends, min(found))


def answer(
    request: ChatRequest,
    policy: Policy,
    prompt_tokens: int,
    completions: Sequence[Completion],
    as_text: Callable[[Sequence[int]], list[str]],
) -> ChatCompletion:
    """The response to `request`.

    Args:
        as_text: each token as text; asked only where the request needs it.
    """
    choices = []
    for index, completion in enumerate(completions):
        text, reason, length = completion.text, completion.finish_reason, len(completion.token_ids)
        tokens = as_text(completion.token_ids) if request.logprobs or request.stops() else []
        if stopped := cut(tokens, text, request.stops()):
            (text, length), reason = stopped, "stop"
        listed = [
            TokenLogprob(token=token, logprob=logprob, bytes=list(token.encode()))
            for token, logprob in zip(tokens[:length], completion.logprobs[:length], strict=bool(tokens))
        ]
        choices.append(
            Choice(
                index=index,
                message=Answer(content=text),
                logprobs=ChoiceLogprobs(content=listed) if request.logprobs else None,
                finish_reason=reason,
            )
        )
    drawn = sum(len(completion.token_ids) for completion in completions)
    return ChatCompletion(
        id=f"chatcmpl-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=policy.model,
        choices=choices,
        usage=Usage(prompt_tokens=prompt_tokens, completion_tokens=drawn, total_tokens=prompt_tokens + drawn),
    )


def events(completion: ChatCompletion, options: StreamOptions) -> Iterator[str]:
    """`completion` as the server-sent events of a stream.

    Clients look into the choices of every event; one without any is only for those who asked for it.
    """
    head = {
        "id": completion.id,
        "object": "chat.completion.chunk",
        "created": completion.created,
        "model": completion.model,
    }
    for choice in completion.choices:
        logprobs = choice.logprobs.model_dump() if choice.logprobs else None
        said = {"index": choice.index, "delta": choice.message.model_dump(), "logprobs": logprobs}
        ended = {"index": choice.index, "delta": {}, "logprobs": None, "finish_reason": choice.finish_reason}
        for part in ({**said, "finish_reason": None}, ended):
            yield f"data: {json.dumps({**head, 'choices': [part]})}\n\n"
    if options.include_usage:
        yield f"data: {json.dumps({**head, 'choices': [], 'usage': completion.usage.model_dump()})}\n\n"
    yield "data: [DONE]\n\n"
