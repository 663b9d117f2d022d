"""Lists of a bank in pages, while it changes."""

from __future__ import annotations

import base64
import json

import pytest

from pmd.services.common.options import MAX_NOTE_CHARS
from tests.memory.desk import B, Desk
from tests.memory.world import Words


def test_an_unknown_filter_is_refused_and_the_nearest_is_named(desk: Desk) -> None:
    desk.learn(1)
    for path, wrong, right in (("items", "levl", "level"), ("audit", "limt", "limit"), ("search?q=x", "mod", "mode")):
        answer = desk.http.get(f"{B}/{path}{'&' if '?' in path else '?'}{wrong}=x")
        assert answer.status_code == 422
        (error,) = answer.json()["errors"]
        assert error["field"] == f"query.{wrong}"
        assert f"did you mean {right!r}" in error["message"]


def test_pages_from_the_oldest_miss_nothing_that_changes_meanwhile(desk: Desk) -> None:
    desk.world.record(1, [(f"p{n}", f"Plan: {n}.", True) for n in range(8)])
    desk.world.reflect(1, Words(lambda p: f"Strategy: {p.split('Task ')[1][0]} first."))
    seen: dict[str, int] = {}
    after = ""
    while True:
        page = desk.http.get(
            f"{B}/items", params={"level": "insight", "sort": "oldest", "limit": 3, "after": after}
        ).json()
        seen |= {i["id"]: i["version"] for i in page["items"]}
        if page["next"] is None:
            break
        after = page["next"]
        if len(seen) < 8:
            desk.act(page["items"][0], "pin")
            assert desk.post("items", {"level": "behavior", "text": f"rule {len(seen)}"}).status_code == 201
    assert seen == {i["id"]: i["version"] for i in desk.items(level="insight", limit=100)}


def test_pages_by_text_go_on_after_a_long_text(desk: Desk) -> None:
    desk.learn(1)
    for n in range(4):
        text = "\N{GRINNING FACE}" * (MAX_NOTE_CHARS - 1) + str(n)
        assert desk.post("items", {"level": "behavior", "text": text}).status_code == 201
    found: list[str] = []
    after = ""
    while after is not None:
        page = (
            desk.http.get(f"{B}/items", params={"sort": "text", "limit": 1, "after": after}).raise_for_status().json()
        )
        found += [i["id"] for i in page["items"]]
        after = page["next"]
    assert sorted(found) == sorted(i["id"] for i in desk.items(limit=100))
    assert len(found) == len(set(found))


FORGED = [["\x00", "a"], ["\ud800", "a"], ["a", "\x00"], ["a", "\udfff"], [[], "a"], [True, "a"], {}, 3]


@pytest.mark.parametrize("cursor", [*map(json.dumps, FORGED), "[" * 14_000], ids=lambda cursor: cursor[:12])
def test_a_forged_cursor_is_refused(desk: Desk, cursor: str) -> None:
    desk.learn(1)
    after = base64.urlsafe_b64encode(cursor.encode()).decode()
    for sort in ("text", "newest", "oldest"):
        answer = desk.http.get(f"{B}/items", params={"sort": sort, "after": after})
        assert answer.status_code == 422, answer.text
