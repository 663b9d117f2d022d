"""The model that writes notes: who is sent which secret, and what a refused prompt costs."""

from __future__ import annotations

import json

import httpx
import pytest

from pmd.services.common.requests import Generator
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


@pytest.mark.parametrize(
    ("generator", "key", "sent"),
    [(OWN, "a-key", f"Bearer {TOKEN}"), (ELSEWHERE, "a-key", "Bearer a-key"), (ELSEWHERE, "", None)],
)
def test_the_installations_token_is_never_sent_elsewhere(generator: Generator, key: str, sent: str | None) -> None:
    server = Server()
    with model(generator, server, key) as chat:
        assert chat.notes(["a note"], "k", str) == ["a note"]
    assert server.asked[0].headers.get("Authorization") == sent
    assert TOKEN not in str(server.asked[0].headers.raw) or generator is OWN


def test_a_prompt_that_is_refused_costs_its_own_notes_only() -> None:
    with model(OWN, Server()) as chat:
        assert chat.notes(["one", "long " * 9, "two"], "k", str) == ["one", None, "two"]
        assert chat.notes(["long " * 9], "k", str) == [None]


def test_a_server_that_takes_not_even_a_word_is_an_error() -> None:
    with model(OWN, Server(longest=0)) as chat, pytest.raises(Refused, match="too long"):
        chat.notes(["one", "two"], "k", str)
