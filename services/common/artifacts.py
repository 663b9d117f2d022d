"""Artifacts: bulk data written once under a run and passed around by reference.

Invariants:
- An artifact is complete or absent: it is written beside its place and moved there in one rename.
- A `Ref` carries the sha256 of the bytes; `read_table` checks it, so nothing reads another thing's data.
- Writing the same artifact twice gives the same bytes (no timestamps inside), so a repeated job is harmless.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pmd.services.common.columns import PROBLEMS
from pmd.services.common.wire import Message, Problem, Ref, Weights


class ArtifactError(RuntimeError):
    """An artifact is missing or is not what its reference says."""


def join(base: str, *parts: str) -> str:
    """A URI below `base`."""
    return "/".join([base.rstrip("/"), *(part.strip("/") for part in parts)])


def local_path(uri: str) -> Path:
    """The file that a `file://` URI (or a plain path) names; for code that needs a real folder.

    Raises:
        ArtifactError: for URIs of remote stores.
    """
    if uri.startswith("file://"):
        return Path(uri.removeprefix("file://"))
    if "://" in uri:
        raise ArtifactError(f"{uri} is not on a file system; mount it or use a file:// URI")
    return Path(uri)


def write_bytes(uri: str, data: bytes) -> Ref:
    """Write `data` at `uri` atomically; overwriting equal bytes is a no-op in effect.

    Raises:
        OSError: the storage is full or out of reach; it names the place.
    """
    fs, path = fsspec.core.url_to_fs(uri)
    fs.makedirs(fs._parent(path), exist_ok=True)
    part = f"{path}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        with fs.open(part, "wb") as f:
            f.write(data)
        fs.mv(part, path)
    except BaseException as error:  # on a full disk, above all: what is repeated must not fill it further
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            error.filename = uri  # a write that fails does not say where
        with contextlib.suppress(OSError):
            fs.rm(part)
        raise
    return Ref(uri=uri, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))


def read_bytes(ref: Ref) -> bytes:
    """The bytes that `ref` names.

    Raises:
        ArtifactError: when they are missing, their hash differs from the reference's, or there is no such store.
        OSError: the store is out of reach.
    """
    try:
        with fsspec.open(ref.uri, "rb") as f:
            data = cast(bytes, f.read())
    except FileNotFoundError as error:
        raise ArtifactError(f"artifact {ref.uri} does not exist; was its run deleted or moved?") from error
    except (ValueError, TypeError, LookupError, ImportError) as error:  # a URI that its driver can't use, or no driver
        raise ArtifactError(f"artifact {ref.uri} can't be read: {type(error).__name__}: {error}") from error
    if hashlib.sha256(data).hexdigest() != ref.sha256:
        raise ArtifactError(f"artifact {ref.uri} changed after it was written; restore it or rerun the phase")
    return data


def write_table(uri: str, rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> Ref:
    """Write `rows` as a Parquet artifact with exactly the columns of `schema`."""
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return write_bytes(uri, sink.getvalue()).model_copy(update={"rows": table.num_rows})


def read_table(ref: Ref) -> list[dict[str, Any]]:
    """The rows of a Parquet artifact, as dictionaries, in the order they were written.

    Raises:
        ArtifactError: it is missing, or no table.
    """
    return cast(list[dict[str, Any]], arrow_table(ref).to_pylist())


def arrow_table(ref: Ref) -> pa.Table:
    """A Parquet artifact as an Arrow table; raises as `read_table` does."""
    data = read_bytes(ref)
    try:
        return pq.read_table(io.BytesIO(data))
    except (pa.ArrowException, OSError, ValueError) as error:  # all that a file of another kind, or a broken one, gives
        raise ArtifactError(f"artifact {ref.uri} is no table: {error}") from error


def write_problems(uri: str, problems: Iterable[Problem]) -> Ref:
    """Write problems, verifier specs included, as an artifact of schema `PROBLEMS`."""
    rows = (
        {
            "problem_id": p.id,
            "split": p.split,
            "domain": p.domain,
            "messages": dump_messages(p.messages),
            "verifier": json.dumps(p.verifier, sort_keys=True),
        }
        for p in problems
    )
    return write_table(uri, rows, PROBLEMS)


def read_problems(ref: Ref, ids: Sequence[str] | None = None) -> dict[str, Problem]:
    """The problems of a `PROBLEMS` artifact by id, in the order they were written.

    Args:
        ids: those that are wanted; None: all. Ids that it does not hold are left out.

    Raises:
        ArtifactError: it is missing, or another artifact.
    """
    table = arrow_table(ref)
    try:
        if ids is not None:
            table = table.filter(pc.is_in(table["problem_id"], value_set=pa.array(ids, pa.string())))
        return {
            row["problem_id"]: Problem(
                id=row["problem_id"],
                split=row["split"],
                domain=row["domain"],
                messages=load_messages(row["messages"]),
                verifier=json.loads(row["verifier"]),
            )
            for row in table.to_pylist()
        }
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ArtifactError(f"artifact {ref.uri} holds no problems: {type(error).__name__}: {error}") from error


def dump_messages(messages: Iterable[Message]) -> str:
    """Chat turns as the JSON that PROBLEMS, PROMPTS and CONTEXTS hold."""
    return json.dumps([m.model_dump() for m in messages], ensure_ascii=False)


def load_messages(text: str) -> list[Message]:
    """The inverse of `dump_messages`."""
    return [Message(**m) for m in json.loads(text)]


MANIFEST = "manifest.json"


def _file_sha256(path: Path) -> str:
    """Hash of a file that may be larger than memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal_weights(folder: Path, version: int, facts: Mapping[str, Any]) -> Weights:
    """Write the manifest of a weights folder (last, atomically) and return its reference.

    The manifest lists every file with size and sha256, plus `facts` (run, step, ..). A folder without a
    manifest is unfinished and is never loaded.
    """
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": _file_sha256(path)}
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != MANIFEST
    }
    manifest = {"version": version, **facts, "files": files}
    data = json.dumps(manifest, indent=1, sort_keys=True).encode()
    ref = write_bytes(f"file://{folder / MANIFEST}", data)
    return Weights(version=version, uri=f"file://{folder}", sha256=ref.sha256)


def check_weights(weights: Weights) -> Path:
    """The local folder of `weights`, after checking its manifest and every file's hash.

    Raises:
        ArtifactError: when the manifest is missing or anything differs from it.
    """
    folder = local_path(weights.uri)
    manifest = json.loads(
        read_bytes(Ref(uri=f"file://{folder / MANIFEST}", sha256=weights.sha256, bytes=0)),
    )
    for name, facts in manifest["files"].items():
        path = folder / name
        if not path.is_file() or _file_sha256(path) != facts["sha256"]:
            raise ArtifactError(
                f"{path} is not the file that its manifest lists; publish version {weights.version} again"
            )
    return folder
