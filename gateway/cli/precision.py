"""Safetensors files in another floating-point precision, without torch.

Invariants:
- Memory is bounded by `CHUNK` values, however large a tensor is.
- Rounding is to nearest, ties to even, as torch rounds; a NaN stays a NaN, and what float16 can't hold is an error.
- Names, shapes, order and metadata stay. What is no 16- or 32-bit float (integers, fp8) is copied as it is.
- Same precision, same bytes: a file that needs no change is a copy.

The format: 8 bytes, little-endian length of a JSON header; the header, name to dtype, shape and offsets; the data.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

Precision = Literal["fp32", "bf16", "fp16"]
CODES: dict[Precision, str] = {"fp32": "F32", "bf16": "BF16", "fp16": "F16"}
"""As safetensors writes them."""
NAMES: dict[Precision, str] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""As `config.json` writes them."""
BYTES = {"F32": 4, "BF16": 2, "F16": 2}
CHUNK = 1 << 22
"""Values that are converted at a time."""
MAX_HEADER_BYTES = 100_000_000
"""Of a header, as safetensors itself bounds it."""


class NoTensors(ValueError):
    """A file is no safetensors file, or can't be written in a precision; the message says which and why."""


def read_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file: `__metadata__` where there is one, and by name dtype, shape, data_offsets.

    Raises:
        NoTensors: when it has none.
    """
    with path.open("rb") as file:
        return _header(path, file)


def _header(path: Path, file: IO[bytes]) -> dict[str, Any]:
    try:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length)) if length <= MAX_HEADER_BYTES else None
    except (struct.error, ValueError) as error:
        raise NoTensors(f"{path} is no safetensors file: {error}") from error
    if not isinstance(header, dict):
        raise NoTensors(f"{path} is no safetensors file: its header is no JSON object")
    return header


def precisions(folder: Path) -> dict[str, str]:
    """The dtype of each floating-point tensor of a model's folder, by name; empty when no file is safetensors.

    Raises:
        NoTensors: a file that should be is not.
    """
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        for name, facts in read_header(path).items():
            if name != "__metadata__" and facts["dtype"] in BYTES:
                found[name] = str(facts["dtype"])
    return found


def commonest(dtypes: Mapping[str, str]) -> Precision | None:
    """The precision of most tensors; None without any."""
    if not dtypes:
        return None
    code = Counter(dtypes.values()).most_common(1)[0][0]
    return next(name for name, each in CODES.items() if each == code)


def convert(source: Path, target: Path, precision: Precision) -> int:
    """Write the tensors of `source` to `target` in `precision`; returns their bytes.

    Raises:
        NoTensors: `source` is no safetensors file, or holds a value that float16 can't.
    """
    code = CODES[precision]
    with source.open("rb") as file:
        header = _header(source, file)
        begin = file.tell()
        tensors = {name: facts for name, facts in header.items() if name != "__metadata__"}
        order = sorted(tensors, key=lambda name: tensors[name]["data_offsets"][0])
        written: dict[str, Any] = {k: v for k, v in header.items() if k == "__metadata__"}
        end = 0
        for name in order:
            facts = tensors[name]
            first, last = facts["data_offsets"]
            changes = facts["dtype"] in BYTES and facts["dtype"] != code
            size = (last - first) // BYTES[facts["dtype"]] * BYTES[code] if changes else last - first
            dtype = code if changes else facts["dtype"]
            written[name] = {"dtype": dtype, "shape": facts["shape"], "data_offsets": [end, end + size]}
            end += size
        if all(written[name]["dtype"] == tensors[name]["dtype"] for name in order):
            shutil.copyfile(source, target)
            return end
        data = json.dumps(written, separators=(",", ":")).encode()
        data += b" " * (-len(data) % 8)  # tensors begin at a multiple of 8, which readers that map the file like
        with target.open("wb") as out:
            out.write(struct.pack("<Q", len(data)) + data)
            for name in order:
                first, last = tensors[name]["data_offsets"]
                file.seek(begin + first)
                _write(file, out, last - first, tensors[name]["dtype"], written[name]["dtype"], f"{source}: {name}")
    return end


def _write(file: IO[bytes], out: IO[bytes], size: int, given: str, wanted: str, what: str) -> None:
    step = CHUNK * BYTES.get(given, 1)
    for done in range(0, size, step):
        data = file.read(min(step, size - done))
        if not data:
            raise NoTensors(f"{what} ends too early")
        out.write(data if given == wanted else encode(decode(data, given), wanted, what).tobytes())


def decode(data: bytes, code: str) -> NDArray[np.float32]:
    """Values of a tensor's bytes, exactly."""
    if code == "BF16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, "<f4" if code == "F32" else "<f2").astype(np.float32)


def encode(values: NDArray[np.float32], code: str, what: str) -> NDArray[Any]:
    """`values`, rounded to `code`.

    Raises:
        NoTensors: a finite value of `what` is too large for float16.
    """
    if code == "F32":
        return values.astype("<f4")
    if code == "F16":
        with np.errstate(over="ignore"):
            halves = values.astype("<f2")
        if np.isinf(halves[np.isfinite(values)]).any():
            raise NoTensors(f"{what} holds values that float16 can't; take another --dtype")
        return halves
    bits = values.view(np.uint32)
    # Half of the last place that stays, less one, and one more where that place is odd: ties go to even.
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype("<u2")
    return np.where(np.isnan(values), (bits >> 16).astype("<u2") | np.uint16(0x40), rounded)
