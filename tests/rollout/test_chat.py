"""Chat as OpenAI's clients speak it, and the batches behind it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from pmd.services.common.artifacts import seal_weights
from pmd.services.common.wire import Policy, Sampling, Weights
from pmd.services.rollout.batching import Batcher, Burst
from pmd.services.rollout.chat import ANSWERED, IGNORED, UNSUPPORTED, ChatRequest, cut
from pmd.services.rollout.completion import Completion, Row
from tests.rollout.conftest import MakePolicy, make_model, make_tokenizer, open_service, publish

URL = "/v1/chat/completions"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, make_policy: MakePolicy) -> Iterator[TestClient]:
    """One service for the module; run demo has versions 1 and 2, 2 is desired."""
    with open_service(tmp_path_factory.mktemp("chat")) as client:
        publish(client, make_policy(version=1))
        publish(client, make_policy(version=2))
        yield client


def body(**changes: Any) -> dict[str, Any]:
    asked = {"model": "demo", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8, "seed": 3}
    return asked | changes


def ask(client: TestClient, **changes: Any) -> dict[str, Any]:
    answer = client.post(URL, json=body(**changes))
    assert answer.status_code == 200, answer.text
    said: dict[str, Any] = answer.json()
    return said


def streamed(client: TestClient, **changes: Any) -> list[dict[str, Any]]:
    """The events of a stream, without its end mark."""
    with client.stream("POST", URL, json=body(stream=True, **changes)) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def batches_so_far(client: TestClient) -> float:
    lines = client.get("/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith("pmd_rollout_batch_rows_count")).split()[-1])


def test_a_plain_request_is_answered_by_the_published_version(service: TestClient) -> None:
    said = ask(service)
    assert said["object"] == "chat.completion"
    assert said["model"] == "demo@2"
    assert said["choices"][0]["message"]["role"] == "assistant"
    assert said["usage"]["total_tokens"] == said["usage"]["prompt_tokens"] + said["usage"]["completion_tokens"]
    assert ask(service)["choices"] == said["choices"]
    assert ask(service, seed=4)["choices"] != said["choices"]


def test_a_version_can_be_named(service: TestClient) -> None:
    assert ask(service, model="demo@1")["model"] == "demo@1"
    assert [m["id"] for m in service.get("/v1/models").json()["data"]] == ["demo", "demo@2", "demo@1"]


def test_n_choices_differ_and_greedy_ones_agree(service: TestClient) -> None:
    choices = ask(service, n=2)["choices"]
    assert [choice["index"] for choice in choices] == [0, 1]
    assert choices[0]["message"] != choices[1]["message"]
    greedy = ask(service, n=2, temperature=0)["choices"]
    assert greedy[0]["message"] == greedy[1]["message"]


def test_logprobs_have_one_entry_per_token(service: TestClient) -> None:
    said = ask(service, logprobs=True)
    entries = said["choices"][0]["logprobs"]["content"]
    assert len(entries) == said["usage"]["completion_tokens"]
    assert all(entry["logprob"] <= 0 for entry in entries)


def test_a_stream_says_the_same_as_the_plain_answer(service: TestClient) -> None:
    plain = ask(service)
    parts = [event["choices"][0] for event in streamed(service)]  # what clients do: each event has a choice
    assert "".join(part["delta"].get("content", "") for part in parts) == plain["choices"][0]["message"]["content"]
    assert parts[-1]["finish_reason"] == plain["choices"][0]["finish_reason"]
    *_, last = streamed(service, stream_options={"include_usage": True})
    assert (last["choices"], last["usage"]) == ([], plain["usage"])


def test_an_announced_burst_is_one_batch_and_reproducible(service: TestClient) -> None:
    def burst(key: str) -> list[Any]:
        def member(index: int) -> Any:
            facts = {"batch": key, "batch_size": "8", "index": str(index)}
            return ask(service, messages=[{"role": "user", "content": f"q{index}"}], metadata=facts)["choices"]

        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(member, range(8)))

    before = batches_so_far(service)
    first = burst("one")
    assert batches_so_far(service) == before + 1
    assert burst("two") == first


def test_an_unknown_model_is_404_with_the_nearest(service: TestClient) -> None:
    answer = service.post(URL, json=body(model="demmo"))
    assert answer.status_code == 404
    assert answer.json()["title"] == "no model 'demmo' here; did you mean 'demo'?"


def test_an_unknown_field_is_422_with_the_nearest(service: TestClient) -> None:
    answer = service.post(URL, json=body(temprature=0.5))
    assert answer.status_code == 422
    assert answer.json()["errors"] == [
        {"field": "body.temprature", "message": "unknown key 'temprature'; did you mean 'temperature'?"}
    ]


def test_fields_that_only_openai_knows_are_accepted(service: TestClient) -> None:
    assert ask(service, **dict.fromkeys(sorted({*IGNORED, *UNSUPPORTED})))["choices"] == ask(service)["choices"]
    assert ask(service, **dict.fromkeys(sorted(IGNORED), "any"))["choices"] == ask(service)["choices"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tool_choice", "required"),
        ("response_format", {"type": "json_object"}),
        ("logit_bias", {"5": 100}),
        ("frequency_penalty", 0.5),
        ("presence_penalty", -1),
        ("reasoning_effort", "high"),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "alloy"}),
        ("web_search_options", {}),
        ("functions", [{"name": "f"}]),
        ("function_call", "auto"),
        ("verbosity", "low"),
    ],
)
def test_what_would_change_the_text_and_can_not_is_refused_by_name(
    service: TestClient, field: str, value: object
) -> None:
    answer = service.post(URL, json=body(**{field: value}))
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["field"] == f"body.{field}"
    assert error["message"].startswith("not supported: it would change the text; leave it out")


def test_values_that_change_nothing_are_accepted(service: TestClient) -> None:
    plain = ask(service)["choices"]
    for field, values in UNSUPPORTED.items():
        for value in values:
            assert ask(service, **{field: value})["choices"] == plain, field


def test_a_field_that_is_null_says_what_leaving_it_out_says(service: TestClient) -> None:
    given = {"model", "messages", "seed", "max_tokens"}
    assert ask(service, **dict.fromkeys(sorted(ChatRequest.model_fields.keys() - given)))["choices"]
    answer = service.post(URL, json=body(temprature=None))
    assert answer.json()["errors"][0]["message"] == "unknown key 'temprature'; did you mean 'temperature'?"


def test_an_answer_as_openais_client_writes_it_out_may_be_sent_back(service: TestClient) -> None:
    said = {"role": "assistant", "content": "hi", **dict.fromkeys(sorted(ANSWERED))}
    plain = {"role": "assistant", "content": "hi"}
    turns = [{"role": "user", "content": "hello"}, {"role": "user", "content": "and?"}]
    with_nulls = ask(service, messages=[turns[0], said, turns[1]])["choices"]
    assert with_nulls == ask(service, messages=[turns[0], plain, turns[1]])["choices"]
    called = said | {"tool_calls": [{"id": "1"}]}
    answer = service.post(URL, json=body(messages=[turns[0], called]))
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "body.messages.1.tool_calls"


def test_a_conversation_that_leaves_no_room_is_422(service: TestClient) -> None:
    answer = service.post(URL, json=body(max_tokens=250))
    assert answer.status_code == 422
    assert "context window of 256" in answer.json()["errors"][0]["message"]


def test_a_conversation_that_the_template_refuses_is_422(service: TestClient) -> None:
    answer = service.post(URL, json=body(messages=[{"role": "system", "content": "be brief"}]))
    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"field": "messages", "message": "no system role here"}]


def test_weights_that_have_diverged_are_named_as_the_cause(service: TestClient, tmp_path: Path) -> None:
    model = make_model(1)
    model.model.norm.weight.data.fill_(float("nan"))
    model.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    publish(service, Policy(run="diverged", weights=seal_weights(tmp_path, 1, {})))
    answer = service.post(URL, json=body(model="diverged"))
    assert answer.status_code == 500
    assert "lower optimizer.lr" in answer.json()["title"]


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("body.max_tokens", {"max_tokens": 10**12}),
        ("body.temperature", {"temperature": 1e-300}),
        ("body.messages.0.content", {"messages": [{"role": "user", "content": "\ud800"}]}),
    ],
)
def test_what_no_sampler_can_do_is_422(service: TestClient, field: str, change: dict[str, Any]) -> None:
    body_ = json.dumps(body(**change))
    answer = service.post(URL, content=body_, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["field"].startswith(field)


def test_a_burst_without_numbers_is_422(service: TestClient) -> None:
    answer = service.post(URL, json=body(metadata={"batch": "x", "batch_size": "many"}))
    assert answer.status_code == 422


def test_a_choice_ends_before_its_stop_text(service: TestClient) -> None:
    text = ask(service, max_tokens=32)["choices"][0]["message"]["content"]
    choice = ask(service, max_tokens=32, stop=text[5:7])["choices"][0]
    assert choice["message"]["content"] == text[: text.index(text[5:7])]
    assert choice["finish_reason"] == "stop"


def test_a_stop_text_cuts_before_it_and_counts_the_tokens_before_it() -> None:
    assert cut(["ab", "cd", "ef"], "abcdef", ["zz"]) is None
    assert cut(["ab", "cd", "ef"], "abcdef", ["de"]) == ("abc", 2)
    assert cut(["ab", "cd", "ef"], "abcdef", ["ef", "cd"]) == ("ab", 1)


def test_without_a_length_the_window_bounds_the_completion() -> None:
    request = ChatRequest(model="demo", messages=[{"role": "user", "content": "hi"}])  # type: ignore[list-item]
    assert request.sampling(prompt_tokens=200, window=256, default=512).max_tokens == 56
    assert request.sampling(prompt_tokens=20, window=4096, default=512).max_tokens == 512


POLICY = Policy(run="demo", weights=Weights(version=1, uri="file:///none", sha256="0"))


def drawn_batches(asked: Sequence[tuple[str, Burst | None, Sampling]], wait_s: float) -> list[list[int]]:
    """The streams of each batch that `asked` leads to, all asked at once."""
    seen: list[list[int]] = []

    def draw(_: Policy, rows: Sequence[Row], __: Sampling) -> list[Completion]:
        seen.append([row.stream for row in rows])
        return [Completion([row.stream], [0.0], str(row.stream), "stop", 1) for row in rows]

    async def main() -> None:
        batcher = Batcher(draw, wait_s)
        running = asyncio.create_task(batcher.run())
        answers = await asyncio.gather(
            *(batcher.submit(POLICY, sampling, [Row((1,), 0, int(name))], burst) for name, burst, sampling in asked)
        )
        assert [answer[0].text for answer in answers] == [name for name, _, _ in asked]
        running.cancel()

    asyncio.run(main())
    return seen


def test_requests_of_one_moment_share_a_batch_per_sampling_setting() -> None:
    warm, greedy = Sampling(), Sampling(temperature=0)
    assert drawn_batches([("1", None, warm), ("2", None, greedy), ("3", None, warm)], 1.0) == [[1, 3], [2]]


def test_a_burst_runs_in_the_order_of_its_index() -> None:
    asked = [(str(i), Burst("b", 3, 3 - i), Sampling()) for i in (1, 2, 3)]
    assert drawn_batches(asked, 5.0) == [[3, 2, 1]]


def test_a_burst_that_stays_incomplete_delays_nobody_for_long() -> None:
    asked = [("1", Burst("b", 9, 0), Sampling()), ("2", None, Sampling())]
    assert drawn_batches(asked, 0.1) == [[2], [1]]


def test_a_schema_is_accepted_and_leaves_the_text_to_the_model(service: TestClient) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "notes", "schema": {"type": "object"}}}
    assert ask(service, response_format=schema)["choices"] == ask(service)["choices"]
