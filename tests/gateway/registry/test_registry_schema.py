"""A registry of any release is brought to the schema of this one, and nothing in it is lost."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from pmd.gateway.registry.registry import Registry
from pmd.gateway.registry.schema import REGISTRY
from pmd.gateway.registry.tables import METADATA
from pmd.services.common.schema import SchemaTooNew
from pmd.services.memory.ledger import Ledger

FIRST_RELEASE = (Path(__file__).parent / "registry_first_release.sql").read_text(encoding="utf-8")
"""A database that the first release made with `create_all`, with one run in it, paused before its first step."""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'registry.db'}"
    return str(request.getfixturevalue("postgres_database")())


@pytest.fixture
def old(url: str) -> str:
    """A database of the first release."""
    engine = sa.create_engine(url)
    with engine.begin() as db:
        for statement in FIRST_RELEASE.split(";\n"):
            db.exec_driver_sql(statement)
    engine.dispose()
    return url


def content(url: str) -> dict[str, list[dict[str, Any]]]:
    """All rows of the registry, by table."""
    engine = sa.create_engine(url)
    there = sa.inspect(engine).get_table_names()
    with engine.connect() as db:
        rows = {
            name: db.execute(sa.select(table)).mappings().all() if name in there else []
            for name, table in METADATA.tables.items()
        }
    engine.dispose()
    return {name: [dict(row) for row in found] for name, found in rows.items()}


def test_a_registry_without_a_revision_is_taken_over_with_all_that_is_in_it(old: str) -> None:
    before = content(old)
    assert before["runs"]
    assert before["events"]
    REGISTRY.open(old).close()
    after = content(old)
    for row in (*before["runs"], *after["runs"]):
        del row["recipe"]  # the next test's
    assert after == before


def test_a_stored_recipe_is_read_in_todays_words(old: str) -> None:
    registry = Registry(REGISTRY.open(old))
    state, _ = registry.state("demo-1")
    recipe = state.recipe
    assert (recipe.optimizer.lr, recipe.optimizer.mini_batches) == (0.001, 4)
    assert (recipe.objective.divergence_alpha, recipe.objective.top_k, recipe.objective.tail) == (0.3, 20, True)
    assert (recipe.hardware.micro_tokens, recipe.hardware.precision) == (4096, "bf16")
    assert recipe.retrieval.vector_weight == 0.25
    assert recipe.prompts.teacher == "t ü"
    assert registry.find_key("my-key") == ("demo-1", recipe), "the same request again is still the same run"


def test_a_phase_that_was_set_aside_is_so_in_todays_words(old: str) -> None:
    engine = sa.create_engine(old)
    with engine.begin() as db:
        row = {"run_id": "demo-1", "step": 1, "name": "rollout", "attempt": 1, "key": "k", "service": "rollout"}
        row |= {"status": "forgiven", "request_hash": "", "submitted": 0.0}
        db.execute(sa.table("phases", *map(sa.column, row)).insert().values(row))
    engine.dispose()
    REGISTRY.open(old).close()
    assert [phase["status"] for phase in content(old)["phases"]] == ["cleared"]


def test_a_fresh_registry_has_the_tables_that_its_queries_expect(url: str) -> None:
    opened = REGISTRY.open(url)
    found = sa.inspect(opened.engine)
    assert set(found.get_table_names()) == {*METADATA.tables, REGISTRY.version_table}
    for name, table in METADATA.tables.items():
        columns = {(c["name"], c["nullable"], getattr(c["type"], "length", None)) for c in found.get_columns(name)}
        expected = {(c.name, bool(c.nullable), getattr(c.type, "length", None)) for c in table.c}
        assert columns == expected, name
        assert found.get_pk_constraint(name)["constrained_columns"] == [c.name for c in table.primary_key], name
        assert {i["name"] for i in found.get_indexes(name)} >= {index.name for index in table.indexes}, name


def test_a_newer_registry_is_refused(url: str) -> None:
    opened = REGISTRY.open(url)
    with opened.write() as db:
        db.execute(sa.update(sa.table(REGISTRY.version_table, sa.column("version_num"))).values(version_num="0999"))
    with pytest.raises(SchemaTooNew, match=r"the run registry at .* schema '0999'.*start the newer release again"):
        REGISTRY.open(url)


def test_registry_and_ledger_may_live_in_one_database(url: str) -> None:
    for _ in range(2):
        REGISTRY.open(url).close()
        Ledger(url).close()


def test_an_installation_whose_path_holds_a_percent_sign_is_upgraded(tmp_path: Path, url: str) -> None:
    """It begins a substitution in Alembic's configuration."""
    shutil.copytree(REGISTRY.migrations, tmp_path / "50% done")
    replace(REGISTRY, migrations=tmp_path / "50% done").open(url).close()
    assert set(content(url)) == set(METADATA.tables)
