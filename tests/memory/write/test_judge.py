"""A model's yes or no on pairs of notes: asked once, capped, kept before it is used, and told."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from fastapi.testclient import TestClient

from pmd.gateway.recipes.recipe import MemorySettings
from pmd.services.common.artifacts import read_table
from pmd.services.common.options import ReflectSettings
from pmd.services.common.requests import Generator, Judged, ReflectRequest
from pmd.services.memory.app import create_app
from pmd.services.memory.ledger import Ledger
from pmd.services.memory.settings import MemoryServiceSettings
from pmd.services.memory.write import judge as judging
from pmd.services.memory.write.judge import PROMPT, judge, parse
from pmd.services.memory.write.notes import InvalidNotes
from tests.memory.desk import TOKEN
from tests.memory.world import Words, World, code_problem

DROP = "Neglect air resistance when the ball falls."
KEEP = "The ball's fall is slowed by drag, so take air resistance into account."
AFTER = "Write the unit beside every number of the ball's fall."
IDS = ["p0", "p1", "p2"]


@pytest.fixture
def prose(tmp_path: Path) -> World:
    world = World(tmp_path, [code_problem(pid, f"How fast is ball {pid} after its fall?") for pid in IDS])
    world.evidence = "effect"
    return world


def learn(world: World, step: int, says: str = f"Strategy: {DROP}\nLesson: {KEEP}") -> None:
    world.record(step, [(pid, f"I recall {pid}.", passed) for pid in IDS for passed in (True, False)])
    world.reflect(step, Words(lambda _: says), IDS)


def ask(world: World, step: int, model: Words, key: str = "") -> Judged:
    request = ReflectRequest(
        bank="b",
        step=step,
        policy_version=step - 1,
        problem_ids=IDS,
        generator=Generator(model="oracle"),
        settings=ReflectSettings(),
        evidence="effect",
        contradictions="model",
        prompts=world.prompts,
    )
    return judge(world.ledger, world.search.vectors, model, request, world.job(key or f"s{step}"))  # type: ignore[arg-type]


def contexts(world: World, step: int) -> list[dict[str, Any]]:
    world.batch(step, [(pid, "I recall.", True) for pid in IDS])
    return read_table(world.retrieve(step, demonstrations="none", feedback="never").contexts)


def most_shown(world: World, steps: range) -> int:
    """The most notes that a context of these steps shows: chance holds some out."""
    return max(len(json.loads(row["items"])) for step in steps for row in contexts(world, step))


def yes(_: str) -> str:
    return "Yes, they do."


def no(_: str) -> str:
    return "<think>yes?</think> No."


def test_what_the_model_says_decides_whether_two_notes_stand_together(prose: World) -> None:
    learn(prose, 1)
    assert most_shown(prose, range(2, 6)) == 2, "their words do not show it"
    model = Words(yes)
    assert ask(prose, 6, model) == Judged(asked=1, apart=1, unread=0, waiting=0), "one pair at three problems"
    assert model.asked == [PROMPT.format(a=DROP, b=KEEP)]
    assert most_shown(prose, range(7, 11)) == 1
    left = [one for row in contexts(prose, 11) for one in json.loads(row["left_out"])]
    reasons = {one["reason"].split("; ")[1] for one in left if one["cause"] == "contradicted"}
    assert reasons == {"oracle said so in step 6"}


def test_its_no_lets_notes_stand_together_that_their_words_keep_apart(prose: World) -> None:
    learn(prose, 1, "Strategy: Sort the words by length.\nLesson: Sort the words by sound.")
    assert most_shown(prose, range(2, 6)) == 1
    assert ask(prose, 6, Words(no)) == Judged(asked=1, apart=0, unread=0, waiting=0)
    assert most_shown(prose, range(7, 11)) == 2


def test_a_pair_is_asked_about_once_and_anew_when_a_note_is_reworded(prose: World) -> None:
    learn(prose, 1)
    ask(prose, 1, Words(yes))
    assert ask(prose, 2, again := Words(yes)) == Judged(asked=0, apart=0, unread=0, waiting=0)
    assert again.asked == []
    learn(prose, 3, f"Strategy: {DROP}\nLesson: {AFTER}")
    reworded = Words(no)
    assert ask(prose, 3, reworded).asked == len(reworded.asked) >= 1
    assert all(AFTER in prompt for prompt in reworded.asked)


def test_a_job_that_is_killed_leaves_the_ledger_of_one_that_is_not(
    prose: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn(prose, 1)
    before = prose.ledger.seq("b")
    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "apply", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))  # before it is kept
        with pytest.raises(KeyboardInterrupt):
            ask(prose, 2, Words(yes))
    assert prose.ledger.seq("b") == before
    first = ask(prose, 2, Words(yes))
    after = prose.ledger.seq("b")
    assert (first.asked, after) == (1, before + 1)
    assert ask(prose, 2, again := Words(no)) == first, "killed after it was kept: the step's answers stand"
    assert (again.asked, prose.ledger.seq("b")) == ([], after)


def test_a_step_asks_about_few_pairs_the_likeliest_first(prose: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "PAIRS", 2)
    said = "\n".join(f"{kind}: The ball falls {how}." for kind, how in zip(
        ("Strategy", "Strategy", "Lesson", "Lesson"), ("fast", "fast and far", "slowly in oil", "up"), strict=True
    ))  # fmt: skip
    learn(prose, 1, said)
    first = ask(prose, 2, model := Words(no))
    assert first == Judged(asked=2, apart=0, unread=0, waiting=4)
    assert "fast." in model.asked[0]
    assert "fast and far." in model.asked[0]
    assert ask(prose, 2, Words(no)) == first.model_copy(update={"waiting": 4}), "a repeated job asks no more"
    assert ask(prose, 3, Words(no)).waiting == 2


def test_an_answer_that_says_neither_changes_nothing_and_is_counted(prose: World) -> None:
    learn(prose, 1)
    before = prose.ledger.seq("b")
    assert ask(prose, 2, Words(lambda _: "It depends.")) == Judged(asked=1, apart=0, unread=1, waiting=0)
    assert prose.ledger.seq("b") == before
    assert ask(prose, 3, Words(yes)).apart == 1, "it is asked again"


def test_answers_go_with_their_bank(prose: World) -> None:
    learn(prose, 1)
    ask(prose, 2, Words(yes))
    prose.search.delete("b")
    learn(prose, 1)
    assert ask(prose, 2, Words(no)) == Judged(asked=1, apart=0, unread=0, waiting=0)


@pytest.mark.parametrize(("answer", "apart"), [("YES.", True), ("**No**, both hold", False), ("Answer: yes", True)])
def test_an_answer_is_its_first_yes_or_no(answer: str, apart: bool) -> None:
    assert parse(answer) is apart


def test_an_answer_with_neither_is_invalid() -> None:
    with pytest.raises(InvalidNotes):
        parse("Yesterday I know nothing")


def test_words_decide_unless_a_recipe_says_otherwise() -> None:
    assert MemorySettings().contradictions == "words"


@pytest.mark.parametrize(("contradictions", "asked"), [("words", None), ("model", 3)])
def test_the_service_asks_where_the_recipe_says_so(prose: World, contradictions: str, asked: int | None) -> None:
    """Through the job that a run submits, to a server that answers as a model would."""
    prose.record(1, [(pid, f"I recall {pid}.", passed) for pid in IDS for passed in (True, False)])
    request = prose.reflection(1, IDS).model_copy(update={"contradictions": contradictions})
    notes = {pid: f"Strategy: {DROP} For {pid}.\nLesson: {KEEP} For {pid}." for pid in IDS}

    def answer(prompt: str) -> str:
        return "Yes." if prompt.startswith("Two notes") else next(notes[pid] for pid in IDS if f"ball {pid}" in prompt)

    with chat_server(answer) as url:
        settings = MemoryServiceSettings(
            token=TOKEN,  # type: ignore[arg-type]
            state_dir=prose.folder / "state",
            memory_database_url=f"sqlite:///{prose.folder}/ledger.db",
            rollout_url=url,
        )
        with TestClient(create_app(settings), headers={"Authorization": f"Bearer {TOKEN}"}) as http:
            body = {"kind": "reflect", "request": request.model_dump(mode="json")}
            assert http.put("/v1/jobs/k", json=body).is_success
            ended = http.get("/v1/jobs/k", params={"wait": 20}).json()
    assert ended["status"] == "succeeded", ended
    judged = ended["result"]["judged"]
    assert (judged and judged["asked"]) == asked
    assert (judged and judged["apart"]) == asked


@contextmanager
def chat_server(answer: Callable[[str], str]) -> Iterator[str]:
    """A server of chat completions; its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            said = {"choices": [{"message": {"content": answer(asked["messages"][-1]["content"])}}]}
            data = json.dumps(said).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
