"""`POST /v1/chat/completions` as OpenAI's clients speak it.

Invariants:
- A field that OpenAI does not have is refused by name (Law 11), and so is one that it has and that would change the
  text as this service can't (`UNSUPPORTED`), unless its value changes nothing. Fields without a bearing on the text
  (`IGNORED`) are accepted and have no effect. A field that is null says what leaving it out says.
- The answer's `model` is `<run>@<version>`: which weights answered, whatever name the client asked for.
- The same request with a `seed` gives the same answer from the same weights, up to floating-point rounding; in an
  announced burst (`metadata.batch`), bit for bit.
- A stream says what the whole answer says, as it is drawn.
"""

from __future__ import annotations

import json
import logging
import secrets
import time
import uuid
from bisect import bisect_left
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from pmd.services.common.strict import Strict
from pmd.services.common.wire import MAX_TOKENS, Message, Policy, Sampling, Temperature
from pmd.services.rollout.batching import Burst
from pmd.services.rollout.completion import Completion, Row

log = logging.getLogger(__name__)

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


class JsonSchema(Strict):
    """A JSON schema by name."""

    name: str
    """For people; without effect."""
    description: str | None = None
    """For people; without effect."""
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None
    """Without effect: an engine that can hold a completion to the schema always does."""


class TextFormat(Strict):
    """Text of any form."""

    type: Literal["text"]


class JsonFormat(Strict):
    """JSON that a schema describes."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


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
    response_format: TextFormat | JsonFormat = Field(default=TextFormat(type="text"), discriminator="type")
    """`json_schema` describes the text. vLLM draws nothing else; transformers draws freely, so that who reads the
    answer must be ready for text that is no such JSON. A completion that is cut off (`length`) is none either."""
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
        asked = self.response_format
        schema = json.dumps(asked.json_schema.schema_) if isinstance(asked, JsonFormat) else None
        return [Row(prompt_ids, seed, choice, schema) for choice in range(self.n)]

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


class Telling:
    """The text of one choice while it is drawn: what can be told of it already.

    Invariant: what has been told stays true. Text that may still change (half a character) or be cut (the beginning of
    a stop text) is held back.
    """

    def __init__(self, as_text: Callable[[Sequence[int]], str], stops: Sequence[str]) -> None:
        self._as_text = as_text
        self._stops = stops
        self._held = max([len(stop) - 1 for stop in stops], default=0)
        self._ids: list[int] = []
        self._before, self._read = 0, 0
        """New tokens are read together with those from the first place on: what precedes one may change its text."""
        self._text = ""
        self.told = ""

    def more(self, token_ids: Sequence[int]) -> str:
        """What can be told after these tokens."""
        self._ids += token_ids
        known = self._as_text(self._ids[self._before : self._read])
        now = self._as_text(self._ids[self._before :])
        if now.endswith("\ufffd"):  # a character whose last bytes are still to come
            return ""
        self._text += now[len(known) :]
        self._before, self._read = self._read, len(self._ids)
        sure = len(self._text) - self._held
        ends = [place for place in map(self._text.find, self._stops) if place >= 0]
        return self._tell(self._text[: min([sure, *ends])])

    def rest(self, whole: str) -> str:
        """What is left to tell of the whole text."""
        return self._tell(whole)

    def _tell(self, text: str) -> str:
        new = text[len(self.told) :]
        self.told += new
        return new


def event(head: Mapping[str, Any], **said: Any) -> str:
    """One server-sent event of a stream."""
    return f"data: {json.dumps({**head, **said})}\n\n"


def head(policy: Policy) -> dict[str, Any]:
    """What all events of a stream say alike."""
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": policy.model,
    }


def delta(
    index: int, said: Mapping[str, Any], logprobs: Any = None, finish_reason: str | None = None
) -> dict[str, Any]:
    """A piece of a choice."""
    return {"index": index, "delta": said, "logprobs": logprobs, "finish_reason": finish_reason}


async def events(
    request: ChatRequest,
    policy: Policy,
    pieces: AsyncIterator[tuple[int, Sequence[int]]],
    completion: Callable[[], Awaitable[ChatCompletion]],
    as_text: Callable[[Sequence[int]], str],
) -> AsyncIterator[str]:
    """The server-sent events of a stream.

    Clients look into the choices of every event; one without any is only for those who asked for it. With `logprobs`
    each choice comes in one piece.

    Args:
        pieces: places of choices and their next tokens, until all are drawn.
        completion: the whole answer, awaited after that.
        as_text: tokens that follow one another as text.
    """
    same = head(policy)
    telling = [Telling(as_text, request.stops()) for _ in range(request.n)]
    for index in range(request.n):
        yield event(same, choices=[delta(index, {"role": "assistant", "content": ""})])
    try:
        async for index, token_ids in pieces:
            if not request.logprobs and (new := telling[index].more(token_ids)):
                yield event(same, choices=[delta(index, {"content": new})])
        whole = await completion()
    except Exception as error:  # the answer has begun: its status can't say it any more
        log.warning("a stream broke off", extra={"model": policy.model, "reason": str(error)})
        yield event({"error": {"message": f"{type(error).__name__}: {error}", "type": "server_error", "code": None}})
        return
    for choice in whole.choices:
        logprobs = choice.logprobs.model_dump() if choice.logprobs else None
        rest = telling[choice.index].rest(choice.message.content)
        if rest or logprobs:
            yield event(same, choices=[delta(choice.index, {"content": rest}, logprobs)])
        yield event(same, choices=[delta(choice.index, {}, finish_reason=choice.finish_reason)])
    if request.stream_options.include_usage:
        yield event(same, choices=[], usage=whole.usage.model_dump())
    yield "data: [DONE]\n\n"
