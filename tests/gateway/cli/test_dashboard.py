"""`pmd dashboard` prints a link that holds a code, and not the token."""

from __future__ import annotations

from tests.gateway.cli.conftest import Api, Pmd


def test_the_link_holds_a_code_behind_the_hash_and_no_token(api: Api, pmd: Pmd) -> None:
    api.answers["POST /v1/session:code"] = {"code": "1.a.b", "ends": 1.0}
    result = pmd("dashboard")
    assert result.exit_code == 0, result.output
    assert result.stdout == "http://gateway/#code=1.a.b\n"
    assert api.asked[0].headers["authorization"] == "Bearer token"
