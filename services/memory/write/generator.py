"""Asking a model for notes: a burst of chat completions against any OpenAI-compatible server.

The requests of a burst carry `metadata` (batch, size, index): our rollout service runs them as one batch in
that order, which makes reflection reproducible (Law 10). Other servers ignore it.

Invariants:
- The installation's token goes to its own rollout service and nowhere else.
- Answers are held to the schema that they are asked by where the server can. A server elsewhere that does not know
  `response_format` is asked without it from then on, and the job's result says so; nothing else is asked differently.
- A server that is away, starts or has too much to do is waited for (`Away`). What it had answered before is kept: a
  burst to our own service is asked anew as a whole, because its batch is part of the result; elsewhere only what is
  missing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import httpx

from pmd.services.common import outgoing
from pmd.services.common.alive import Watch
from pmd.services.common.jobs import JobContext, Retryable
from pmd.services.common.requests import Generator
from pmd.services.common.tokens import REFUSED, Bearer, Tokens
from pmd.services.common.waiting import AWAY_STATUS, Away, retry_after
from pmd.services.memory.write.notes import InvalidNotes

T = TypeVar("T")

PARALLEL = 64
"""Requests in flight at once: a batch larger than this could never be complete at the server."""
TIMEOUT_S = 600.0
WORD = "Hello"
"""A prompt that every server takes from whom it takes any."""

log = logging.getLogger(__name__)


class Refused(ValueError):
    """The server takes this prompt not: it is too long, mostly. It may take others."""


@dataclass
class Answers(Generic[T]):
    """What a model's answers say, and what became of those that say nothing."""

    found: list[T | None]
    """By prompt; None where the answer was invalid twice, and for a prompt that the server refused."""
    asked: int = 0
    refused: int = 0
    unusable: list[str] = field(default_factory=list)
    """The second answers, of prompts whose first was invalid too."""
    unconstrained: str | None = None
    """Why they were not held to the schema."""


class ChatModel:
    """The model that writes notes."""

    def __init__(
        self,
        generator: Generator,
        rollout_url: str,
        tokens: Tokens,
        key: str = "",
        *,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Nothing is asked yet.

        Args:
            rollout_url: the rollout service, which writes unless `generator` names a server.
            tokens: for the rollout service.
            key: API key for a server that `generator` names; empty where none is wanted.
        """
        own = generator.base_url is None
        make = outgoing.inside if own else outgoing.outside
        url = generator.base_url or f"{rollout_url.rstrip('/')}/v1"
        self._http = make(
            base_url=url,
            auth=Bearer(tokens) if own else None,
            headers={"Authorization": f"Bearer {key}"} if key and not own else {},
            timeout=httpx.Timeout(TIMEOUT_S, connect=5.0),
            limits=httpx.Limits(max_connections=PARALLEL + 1),  # one to ask for a sign of life
            transport=transport,
        )
        self._generator = generator
        self._unconstrained: str | None = None
        """What the server said of `response_format` when it took the same prompt without."""
        self._where = f"{outgoing.shown(url).rstrip('/')}/chat/completions"
        self._watch = Watch(self._http, "/models", f"the model that writes notes at {self._where}")

    def __enter__(self) -> ChatModel:
        self._watch.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._watch.__exit__()
        self._http.close()

    def notes(
        self,
        prompts: Sequence[str],
        job: JobContext,
        parse: Callable[[str], T],
        schema: Mapping[str, Any] | None = None,
        *,
        about: str = "",
    ) -> Answers[T]:
        """Ask every prompt once, and those with an invalid answer once more, with another seed.

        Args:
            job: its key names the burst; answers are a function of it, the prompts, the seed and the weights.
            parse: reads one answer; raises `InvalidNotes`.
            schema: JSON schema that an answer must follow.
            about: what else of the job this burst is for: each one that a job asks for has a name of its own.

        Raises:
            Away: when the server can't be reached, starts or has too much to do.
            Retryable: when it answers an error.
            Refused: when it refuses every prompt, and a single word too: then the model or a setting is wrong.
        """
        named = f"{job.key}.{about}" if about else job.key
        told: Answers[T] = Answers([None] * len(prompts), asked=len(prompts))
        open_ = list(range(len(prompts)))
        for attempt in range(2):
            asked = [prompts[i] for i in open_]
            answers = self._burst(asked, job, f"{named}.{attempt}", open_, attempt, schema)
            refused = [answer for answer in answers if isinstance(answer, Refused)]
            if refused and len(refused) == len(prompts):
                # Often that is one prompt only, of a problem with long attempts.
                word = self._ask(WORD, 0, f"{named}.word", 1, 0, None)
                if isinstance(word, Refused):
                    raise word
            if refused:
                facts = {"batch": job.key, "refused": len(refused), "asked": len(answers), "reason": str(refused[0])}
                log.warning("prompts for notes refused", extra=facts)
                told.refused += len(refused)
            still_open = []
            for i, answer in zip(open_, answers, strict=True):
                if isinstance(answer, Refused):
                    continue
                try:
                    told.found[i] = parse(answer)
                except InvalidNotes:
                    still_open.append(i)
                    if attempt:
                        told.unusable.append(answer)
            open_ = still_open
        told.unconstrained = self._unconstrained
        return told

    def _burst(
        self,
        prompts: Sequence[str],
        job: JobContext,
        key: str,
        numbers: Sequence[int],
        attempt: int,
        schema: Mapping[str, Any] | None,
    ) -> list[str | Refused]:
        answers: list[str | Refused] = []
        for start in range(0, len(prompts), PARALLEL):
            job.check()
            part = prompts[start : start + PARALLEL]
            batch = f"{key}.{start}"
            seeds = [number * 2 + attempt for number in numbers[start : start + PARALLEL]]
            known: dict[int, str | Refused] = job.once(batch, dict)
            if len(known) < len(part):
                self._complete(known, part, batch, seeds, schema)
            answers += [known[i] for i in range(len(part))]
        return answers

    def _complete(
        self,
        known: dict[int, str | Refused],
        prompts: Sequence[str],
        batch: str,
        seeds: Sequence[int],
        schema: Mapping[str, Any] | None,
    ) -> None:
        """Ask for the answers of a burst that are not `known`.

        Raises:
            Away: when some did not come; those that did are known from then on, unless they are of a batch of ours.
        """
        missing = [i for i in range(len(prompts)) if i not in known]
        lacking: Away | None = None
        with ThreadPoolExecutor(len(missing)) as pool:
            tasks = {i: pool.submit(self._ask, prompts[i], seeds[i], batch, len(prompts), i, schema) for i in missing}
            for i, task in tasks.items():
                try:
                    known[i] = task.result()
                except Away as away:
                    lacking = away
        if lacking is not None:
            if self._generator.base_url is None:
                known.clear()
            raise lacking

    def _ask(
        self,
        prompt: str,
        seed_offset: int,
        batch: str,
        batch_size: int,
        index: int,
        schema: Mapping[str, Any] | None,
    ) -> str | Refused:
        sampling = self._generator.sampling
        body: dict[str, Any] = {
            "model": self._generator.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "seed": self._generator.seed + seed_offset,
            "metadata": {"batch": batch, "batch_size": str(batch_size), "index": str(index)},
        }
        if schema is None or self._unconstrained is not None:
            return self._post(body)
        held = {"type": "json_schema", "json_schema": {"name": "notes", "strict": True, "schema": schema}}
        answer = self._post(body | {"response_format": held})
        if isinstance(answer, Refused) and self._generator.base_url is not None:
            refused, answer = answer, self._post(body)
            if not isinstance(answer, Refused):  # so it was not the prompt
                self._unconstrained = str(refused)
                log.warning("notes are asked for without a schema", extra={"batch": batch, "reason": str(refused)})
        return answer

    def _post(self, body: Mapping[str, Any]) -> str | Refused:
        try:
            response = self._http.post("/chat/completions", json=body)
        except httpx.TransportError as error:
            raise Away(
                f"the model that writes notes can't be reached at {self._where}: {type(error).__name__}"
            ) from error
        if response.status_code in AWAY_STATUS:
            raise Away(
                f"the model that writes notes at {self._where} can't answer now: "
                f"HTTP {response.status_code}{self._reason(response)}",
                after_s=retry_after(response.headers),
            )
        if response.status_code == httpx.codes.UNAUTHORIZED and self._generator.base_url is None:
            raise Away(f"the model that writes notes at {self._where} can't be asked now: {REFUSED}")
        if response.status_code >= 400:
            cause = f"{self._where}: HTTP {response.status_code}{self._reason(response)}"
            if response.status_code in {400, 413, 422}:
                return Refused(cause)
            if response.status_code < 500 and response.status_code not in {404, 409}:
                raise ValueError(cause)
            raise Retryable(cause)
        try:
            # Null is what a server says that keeps the thinking apart and had no room for more, and not the word None.
            return str(response.json()["choices"][0]["message"]["content"] or "")
        except (ValueError, LookupError, TypeError):
            cause = f"{self._where}: HTTP {response.status_code} with a body that is no chat completion"
            raise Retryable(f"{cause}; is it the address of an OpenAI-compatible server?") from None

    def _reason(self, response: httpx.Response) -> str:
        """Why our rollout service refuses; of another server nothing is passed on but the status."""
        if self._generator.base_url is not None:
            return ""
        try:
            return f": {response.json()['title']}"
        except (ValueError, KeyError, TypeError):
            return ""
