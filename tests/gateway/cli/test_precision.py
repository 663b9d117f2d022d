"""Tensors in another precision: torch's rounding, without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pmd.gateway.cli import precision
from pmd.gateway.cli.precision import NoTensors, Precision, convert, read_header

TORCH: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def every_kind_of_float() -> torch.Tensor:
    """Random bits: ordinary values, subnormals, infinities, NaNs; and each tie between two bf16 values of a range."""
    bits = np.random.default_rng(0).integers(0, 2**32, size=20_000, dtype=np.uint32)
    ties = (np.arange(0x3F80, 0x4080, dtype=np.uint32) << 16) + 0x8000
    edges = np.array([0x7F7FFFFF, 0x7F800000, 0xFF800000, 0x7F800001, 0xFFFFFFFF, 0, 0x80000000], dtype=np.uint32)
    return torch.from_numpy(np.concatenate([bits, ties, edges]).view(np.float32))


@pytest.mark.parametrize("to", ["bf16", "fp32"])
@pytest.mark.parametrize("given", ["fp32", "bf16"])
def test_rounding_is_that_of_torch(given: Precision, to: Precision, tmp_path: Path) -> None:
    values = every_kind_of_float().to(TORCH[given])
    save_file({"x": values}, tmp_path / "in.safetensors")
    assert convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", to) == values.numel() * TORCH[to].itemsize
    found, expected = load_file(tmp_path / "out.safetensors")["x"], values.to(TORCH[to])
    assert torch.equal(found.isnan(), expected.isnan())
    whole = torch.int16 if to == "bf16" else torch.int32
    assert torch.equal(found.view(whole)[~expected.isnan()], expected.view(whole)[~expected.isnan()])


def test_half_precision_rounds_as_torch_and_never_to_infinity(tmp_path: Path) -> None:
    values = torch.randn(5000) * 100
    save_file({"x": values}, tmp_path / "in.safetensors")
    convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", "fp16")
    assert torch.equal(load_file(tmp_path / "out.safetensors")["x"], values.half())
    save_file({"x": values * 1e4}, tmp_path / "in.safetensors")
    with pytest.raises(NoTensors, match="x holds values that float16 can't"):
        convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", "fp16")


def test_tensors_larger_than_a_chunk_keep_names_shapes_and_metadata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "CHUNK", 7)
    tensors = {"b": torch.randn(3, 11), "a": torch.randn(20), "scalar": torch.tensor(0.5), "none": torch.zeros(0, 4)}
    whole = {"count": torch.arange(9), "flag": torch.tensor([True, False])}
    save_file(tensors | whole, tmp_path / "in.safetensors", {"format": "pt"})
    convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", "bf16")
    found = load_file(tmp_path / "out.safetensors")
    assert all(torch.equal(found[name], tensor.bfloat16()) for name, tensor in tensors.items())
    assert all(torch.equal(found[name], tensor) for name, tensor in whole.items())
    assert read_header(tmp_path / "out.safetensors")["__metadata__"] == {"format": "pt"}


def test_what_is_no_safetensors_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "in.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(NoTensors, match=r"in\.safetensors is no safetensors file"):
        convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", "bf16")
