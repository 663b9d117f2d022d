"""The engine: how it loads weights and how it bounds a batch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from pmd.services.common.artifacts import ArtifactError, seal_weights
from pmd.services.common.wire import Message, Policy, Sampling
from pmd.services.rollout.completion import Completion, Row
from pmd.services.rollout.engines.transformers.engine import TransformersEngine, batches
from pmd.services.rollout.settings import RolloutSettings
from tests.rollout.conftest import TOKEN, MakePolicy, make_model, make_tokenizer, tampered


def make_engine(**settings: object) -> TransformersEngine:
    return TransformersEngine(RolloutSettings(token=TOKEN, rollout_threads=1, **settings))


def greedy(engine: TransformersEngine, policy: Policy) -> list[Completion]:
    rows = [Row((5, 6, 7), 0, 0), Row((8, 9), 0, 1)]
    return engine.generate(policy, rows, Sampling(temperature=0, max_tokens=10), lambda: None)


def loads(how: str) -> float:
    return REGISTRY.get_sample_value("pmd_rollout_load_seconds_count", {"how": how}) or 0.0


def test_the_next_version_of_a_run_is_copied_into_the_model_that_is_there(make_policy: MakePolicy) -> None:
    engine = make_engine()
    engine.load(make_policy(version=1))
    full, copied = loads("full"), loads("copy")
    engine.load(make_policy(version=2))
    assert (loads("full"), loads("copy")) == (full, copied + 1)
    assert greedy(engine, make_policy(version=2)) == greedy(make_engine(), make_policy(version=2))


def test_a_version_with_another_tokenizer_or_config_is_loaded_anew(make_policy: MakePolicy, tmp_path: Path) -> None:
    engine = make_engine()
    engine.load(make_policy(version=1))
    make_model(2).save_pretrained(tmp_path)
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "changed: {{ messages[0].content }}"
    tokenizer.save_pretrained(tmp_path)
    changed = Policy(run="demo", weights=seal_weights(tmp_path, 2, {}))
    (prompt_ids,), _ = engine.render(changed, [[Message(role="user", content="hi")]])
    assert tokenizer.decode(prompt_ids) == "changed: hi"


def test_tensors_of_another_shape_of_model_are_loaded_anew(make_policy: MakePolicy, tmp_path: Path) -> None:
    """A folder whose tensors are not exactly the model's is never half copied."""
    engine = make_engine()
    engine.load(make_policy(version=1))
    model = make_model(2)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight + 1.0)
    model.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    untied = Policy(run="demo", weights=seal_weights(tmp_path, 2, {}))
    assert greedy(engine, untied) == greedy(make_engine(), untied)


def test_a_file_that_changed_after_publication_is_refused(make_policy: MakePolicy, tmp_path: Path) -> None:
    make_model(1).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    policy = Policy(run="demo", weights=seal_weights(tmp_path, 1, {}))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    engine = make_engine()
    with pytest.raises(ArtifactError, match=r"config\.json"):
        engine.load(policy)
    with pytest.raises(ArtifactError, match="changed after it was written"):
        engine.load(tampered(make_policy()))
    assert engine.loaded() == {}


def test_a_small_memory_bound_changes_the_batches_and_not_the_tokens(make_policy: MakePolicy) -> None:
    rows = [Row(tuple(range(1 + i % 5)), 0, i) for i in range(12)]
    sampling = Sampling(temperature=0, max_tokens=10)
    wide = make_engine().generate(make_policy(), rows, sampling, lambda: None)
    narrow = make_engine(rollout_cache_gib=1e-5).generate(make_policy(), rows, sampling, lambda: None)
    assert [one.token_ids for one in narrow] == [one.token_ids for one in wide]


@given(
    lengths=st.lists(st.integers(1, 50), max_size=40),
    max_tokens=st.integers(1, 50),
    cells=st.integers(1, 500),
    most=st.integers(1, 8),
)
def test_batches_hold_every_row_once_and_stay_in_bounds(
    lengths: list[int], max_tokens: int, cells: int, most: int
) -> None:
    made = list(batches(lengths, max_tokens, cells, most))
    assert sorted(i for batch in made for i in batch) == list(range(len(lengths)))
    for batch in made:
        assert len(batch) <= most
        assert len(batch) == 1 or len(batch) * (max(lengths[i] for i in batch) + max_tokens) <= cells
