"""The model that writes notes: who is sent which secret, and what a refused prompt costs."""

from __future__ import annotations

import json
import threading

import httpx
import pytest

from pmd.services.common.jobs import JobContext, Retryable
from pmd.services.common.requests import Generator
from pmd.services.common.waiting import Away
from pmd.services.memory.write.generator import ChatModel, Refused

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
    return ChatModel(generator, "http://rollout", TOKEN, key, transport=httpx.MockTransport(server))


def job() -> JobContext:
    return JobContext("k", threading.Event())


@pytest.mark.parametrize(
    ("generator", "key", "sent"),
    [(OWN, "a-key", f"Bearer {TOKEN}"), (ELSEWHERE, "a-key", "Bearer a-key"), (ELSEWHERE, "", None)],
)
def test_the_installations_token_is_never_sent_elsewhere(generator: Generator, key: str, sent: str | None) -> None:
    server = Server()
    with model(generator, server, key) as chat:
        assert chat.notes(["a note"], job(), str) == ["a note"]
    assert server.asked[0].headers.get("Authorization") == sent
    assert TOKEN not in str(server.asked[0].headers.raw) or generator is OWN


def test_a_prompt_that_is_refused_costs_its_own_notes_only() -> None:
    with model(OWN, Server()) as chat:
        assert chat.notes(["one", "long " * 9, "two"], job(), str) == ["one", None, "two"]
        assert chat.notes(["long " * 9], job(), str) == [None]


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
        assert chat.notes(["one", "two", "three"], work, str) == ["one", "two", "three"]
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
