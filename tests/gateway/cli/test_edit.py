"""`pmd memory edit` in the person's own editor: nothing that was written is lost."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.gateway.cli.conftest import Api, Pmd
from tests.gateway.cli.test_commands import HELD, ITEM


@pytest.fixture
def item(api: Api) -> Api:
    api.answers["GET /v1/runs/r/memory/i1"] = {"item": ITEM, "history": []}
    api.answers["GET /v1/runs/r/memory"] = {"items": [ITEM], "next": None}
    api.answers["PATCH /v1/runs/r/memory/i1"] = HELD
    return api


def changed(api: Api) -> list[httpx.Request]:
    return [request for request in api.asked if request.method == "PATCH"]


def test_what_the_editor_leaves_is_sent_for_the_version_that_was_seen(
    item: Api, pmd: Pmd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDITOR", "sed -i s/begins/ends/")
    assert "version 3" in pmd("memory", "edit", "r", "i1").stdout
    (sent,) = changed(item)
    assert sent.read() == b'{"text":"every zor-? ends with [flip].","also":[]}'
    assert sent.headers["If-Match"] == '"2"'


@pytest.mark.parametrize("editor", ["true", "touch", "sed -i s/^.*$//"])
def test_a_text_that_is_left_as_it_was_or_empty_changes_nothing(
    editor: str, item: Api, pmd: Pmd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDITOR", editor)
    assert pmd("memory", "edit", "r", "i1").stdout == "nothing changed\n"
    assert changed(item) == []


@pytest.mark.parametrize("editor", ["false", "no-such-editor-here"])
def test_an_editor_that_fails_is_a_sentence(editor: str, item: Api, pmd: Pmd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDITOR", editor)
    result = pmd("memory", "edit", "r", "i1")
    assert result.exit_code == 1
    assert "set EDITOR, or give --text" in result.stderr
    assert changed(item) == []


def test_a_conflict_keeps_the_text_and_says_where_and_how_to_go_on(
    item: Api, pmd: Pmd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    moved = {"status": 412, "title": "item 'i1' is at version 3 by now; look at it and try again"}
    item.answers["PATCH /v1/runs/r/memory/i1"] = httpx.Response(412, json=moved)
    monkeypatch.setenv("EDITOR", "sed -i s/begins/ends/")
    result = pmd("memory", "edit", "r", "i1")
    kept = tmp_path / "state" / "edits" / "r.i1.txt"
    assert result.exit_code == 1
    assert "is at version 3 by now" in result.stderr
    assert f'your text is in {kept}; `pmd memory edit r i1 --text "$(cat {kept})"` tries again' in result.stderr
    assert kept.read_text() == "every zor-? ends with [flip]."
    refused = pmd("memory", "edit", "r", "i1", "--text", "given")
    assert "your text is in" not in refused.stderr, "who gave it has it"
