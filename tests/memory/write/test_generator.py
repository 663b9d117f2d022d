"""The model that writes notes: who is sent which secret, and what a refused prompt costs."""

from __future__ import annotations

import json
import threading

import httpx
import pytest

from pmd.services.common.jobs import JobContext, Retryable
from pmd.services.common.requests import Generator
from pmd.services.common.tokens import Tokens
from pmd.services.common.waiting import Away
from pmd.services.memory.write.generator import ChatModel, Refused
from pmd.services.memory.write.notes import answer_schema, parse_insight

TOKEN = "a-token-of-this-installation"
OWN = Generator(model="run@3")
ELSEWHERE = Generator(model="large", base_url="https://models.example/v1")


class Server:
    """Repeats each prompt; refuses those that are too long."""

    def __init__(self, longest: int = 10) -> None:
        self.asked: list[httpx.Request] = []
        self.longest = longest

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        prompt = json.loads(request.content)["messages"][0]["content"]
        if len(prompt) > self.longest:
            return httpx.Response(422, json={"title": "too long"})
        return httpx.Response(200, json={"choices": [{"message": {"content": prompt}}]})


def model(generator: Generator, server: Server, key: str = "") -> ChatModel:
    return ChatModel(generator, "http://rollout", Tokens(TOKEN), key, transport=httpx.MockTransport(server))


def job() -> JobContext:
    return JobContext("k", threading.Event())


@pytest.mark.parametrize(
    ("generator", "key", "sent"),
    [(OWN, "a-key", f"Bearer {TOKEN}"), (ELSEWHERE, "a-key", "Bearer a-key"), (ELSEWHERE, "", None)],
)
def test_the_installations_token_is_never_sent_elsewhere(generator: Generator, key: str, sent: str | None) -> None:
    server = Server()
    with model(generator, server, key) as chat:
        assert chat.notes(["a note"], job(), str).found == ["a note"]
    assert server.asked[0].headers.get("Authorization") == sent
    assert TOKEN not in str(server.asked[0].headers.raw) or generator is OWN


def test_a_prompt_that_is_refused_costs_its_own_notes_only() -> None:
    with model(OWN, Server()) as chat:
        assert chat.notes(["one", "long " * 9, "two"], job(), str).found == ["one", None, "two"]
        assert chat.notes(["long " * 9], job(), str).found == [None]


def test_a_server_that_takes_not_even_a_word_is_an_error() -> None:
    with model(OWN, Server(longest=0)) as chat, pytest.raises(Refused, match="too long"):
        chat.notes(["one", "two"], job(), str)


class Away503(Server):
    """Has too much to do for one prompt of the first burst."""

    def __call__(self, request: httpx.Request) -> httpx.Response:
        answer = super().__call__(request)
        busy = len(self.asked) <= 3 and b"two" in request.content
        return httpx.Response(503, json={"title": "starting"}, headers={"Retry-After": "7"}) if busy else answer


@pytest.mark.parametrize(("generator", "again"), [(OWN, ["one", "three", "two"]), (ELSEWHERE, ["two"])])
def test_of_a_server_that_is_away_only_what_is_missing_is_asked_again_and_of_ours_the_whole_batch(
    generator: Generator, again: list[str]
) -> None:
    server, work = Away503(), job()
    with model(generator, server) as chat:
        with pytest.raises(Away, match="HTTP 503") as away:
            chat.notes(["one", "two", "three"], work, str)
        assert away.value.after_s == 7
        first = len(server.asked)
        assert chat.notes(["one", "two", "three"], work, str).found == ["one", "two", "three"]
    asked = [json.loads(request.content) for request in server.asked[first:]]
    assert sorted(body["messages"][0]["content"] for body in asked) == again
    assert {body["metadata"]["batch_size"] for body in asked} == {"3"}


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
def test_a_server_that_can_not_answer_now_is_waited_for(status: int) -> None:
    with model(OWN, lambda _: httpx.Response(status)) as chat, pytest.raises(Away, match=str(status)):  # type: ignore[arg-type]
        chat.notes(["one"], job(), str)


def test_a_server_that_tried_and_failed_is_an_attempt() -> None:
    with model(OWN, lambda _: httpx.Response(500)) as chat, pytest.raises(Retryable) as failed:  # type: ignore[arg-type]
        chat.notes(["one"], job(), str)
    assert not isinstance(failed.value, Away)


@pytest.mark.parametrize(
    "answer",
    [httpx.Response(200, text="<p>a secret</p>"), httpx.Response(302), httpx.Response(200, json={"choices": []})],
)
def test_an_answer_that_is_no_completion_is_told_without_it(answer: httpx.Response) -> None:
    with model(ELSEWHERE, lambda _: answer) as chat, pytest.raises(Retryable, match="no chat completion") as failed:  # type: ignore[arg-type]
        chat.notes(["one"], job(), str)
    assert "secret" not in str(failed.value)


SCHEMA = answer_schema("strategy", budget=2)


class Unknowing(Server):
    """Knows no `response_format`."""

    def __call__(self, request: httpx.Request) -> httpx.Response:
        answer = super().__call__(request)
        return httpx.Response(400, json={"error": "what?"}) if b"response_format" in request.content else answer


def formats(server: Server) -> list[bool]:
    return ["response_format" in json.loads(request.content) for request in server.asked]


def test_a_server_is_asked_to_hold_answers_to_their_schema() -> None:
    server = Server()
    with model(OWN, server) as chat:
        assert chat.notes(["one"], job(), str, SCHEMA).unconstrained is None
    (asked,) = server.asked
    assert json.loads(asked.content)["response_format"]["json_schema"]["schema"] == SCHEMA


def test_a_server_that_knows_no_schema_is_asked_without_and_the_job_says_so() -> None:
    server = Unknowing()
    with model(ELSEWHERE, server) as chat:
        told = chat.notes(["one"], job(), str, SCHEMA)
        assert told.found == ["one"]
        assert "HTTP 400" in str(told.unconstrained)
        assert formats(server) == [True, False]
        chat.notes(["two"], job(), str, SCHEMA)
        assert formats(server) == [True, False, False], "it was told once"


def test_a_prompt_that_is_refused_with_and_without_a_schema_is_not_the_schemas_fault() -> None:
    server = Server()
    with model(ELSEWHERE, server) as chat:
        told = chat.notes(["long " * 9, "one"], job(), str, SCHEMA)
    assert (told.found, told.refused, told.unconstrained) == ([None, "one"], 1, None)


def test_an_answer_that_can_not_be_read_is_asked_for_once_more_with_another_seed_and_then_counted() -> None:
    server = Server()
    with model(OWN, server) as chat:
        told = chat.notes(["prose", "None"], job(), lambda text: parse_insight(text, 2, "json"))
    assert (told.asked, told.unusable, told.found[0]) == (2, ["prose"], None)
    asked = [json.loads(request.content) for request in server.asked]
    seeds = [body["seed"] for body in asked if body["messages"][0]["content"] == "prose"]
    assert len(set(seeds)) == 2


def test_an_answer_of_null_is_no_answer() -> None:
    with model(OWN, lambda _: httpx.Response(200, json={"choices": [{"message": {"content": None}}]})) as chat:  # type: ignore[arg-type]
        told = chat.notes(["one"], job(), lambda text: parse_insight(text, 2, "json"))
    assert told.unusable == [""], "it is not the word None"
