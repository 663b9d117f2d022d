"""What a recipe may name: nothing that the installation did not list, whatever it is written as."""

from __future__ import annotations

from pathlib import Path

import pytest

from pmd.services.common.allowed import Allowed, NotAllowed

LISTED = Allowed.of("https://models.example/v1, http://gpu:8000/v1 s3://sets/open", "/data,/srv")


@pytest.mark.parametrize(
    "url",
    [
        "https://models.example/v1",
        "https://models.example/v1/",
        "https://models.example:443/v1/team",
        "http://gpu:8000/v1",
        "s3://sets/open/train.jsonl",
    ],
)
def test_what_is_listed_and_all_below_it_is_allowed(url: str) -> None:
    LISTED.check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://models.example/v1",
        "https://models.example",
        "https://models.example/v10",
        "https://models.example:8443/v1",
        "https://models.example.evil/v1",
        "https://user:secret@models.example/v1",
        "https://models.example@evil.example/v1",
        "https://evil.example\\@models.example/v1",
        "https://evil.example#@models.example/v1",
        "https://models.example/v1/../admin",
        "https://models.example/v1/%2e%2e/admin",
        "https://models.example/v1?key=secret",
        "http://gpu:8000/v1\n",
        "http://169.254.169.254/v1",
        "http://0x7f000001/",
        "https://[::1]/",
        "http://127.0.0.1:8703",
        "ftp://models.example/v1",
        "simplecache::https://models.example/v1",
        "s3://sets/opened",
        "",
    ],
)
def test_nothing_else_is_and_no_secret_is_shown(url: str) -> None:
    with pytest.raises(NotAllowed) as refused:
        LISTED.check_url(url)
    assert "secret" not in str(refused.value)


def test_nothing_outside_is_allowed_unless_it_is_listed() -> None:
    with pytest.raises(NotAllowed, match="PMD_ALLOWED_URLS"):
        Allowed.of("").check_url("http://localhost:8000/v1")


@pytest.mark.parametrize("uri", ["/data/a.jsonl", "file:///srv/a.jsonl", "/data", "s3://sets/open/a.jsonl"])
def test_files_in_a_listed_folder_are_allowed(uri: str) -> None:
    LISTED.check_file(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "data/a.jsonl",
        "./a.jsonl",
        "file://data/a.jsonl",
        "/etc/passwd",
        "/data/../etc/passwd",
        "file:///etc/passwd",
        "/database/a.jsonl",
        "ftp://host/a.jsonl",
        "http://host/a.jsonl",
        "memory://a.jsonl",
        "filecache::s3://sets/open/a.jsonl",
        "zip://a.jsonl::file:///data/a.zip",
        "github://owner:repo@/a.jsonl",
    ],
)
def test_other_files_are_not(uri: str) -> None:
    with pytest.raises(NotAllowed):
        LISTED.check_file(uri)


def test_a_link_leads_to_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "link").symlink_to("/etc/passwd")
    with pytest.raises(NotAllowed, match="PMD_ALLOWED_PATHS"):
        Allowed(paths=(str(tmp_path / "open"),)).check_file(str(tmp_path / "open" / "link"))
