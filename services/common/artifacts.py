"""Artifacts: bulk data written once under a run and passed around by reference.

Invariants:
- An artifact is complete or absent: it is written beside its place and moved there in one rename.
- A `Ref` carries the sha256 of the bytes; `read_table` checks it, so nothing reads another thing's data.
- Writing the same artifact twice gives the same bytes (no timestamps inside), so a repeated job is harmless.
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import io
import json
import uuid
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pmd.services.common.columns import PROBLEMS
from pmd.services.common.wire import Message, Problem, Ref, Weights

ROW_GROUP = 256
"""Rows of a problem set that are stored together: a step that wants some of many decodes these alone."""


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


def write_table(uri: str, rows: Iterable[Mapping[str, Any]], schema: pa.Schema, *, row_group: int | None = None) -> Ref:
    """Write `rows` as a Parquet artifact with exactly the columns of `schema`.

    Args:
        row_group: rows that are stored together; None: as many as Parquet's writer likes.
    """
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", row_group_size=row_group)
    return write_bytes(uri, sink.getvalue()).model_copy(update={"rows": table.num_rows})


def read_table(ref: Ref, where: tuple[str, Collection[str]] | None = None) -> list[dict[str, Any]]:
    """The rows of a Parquet artifact, as dictionaries, in the order they were written.

    Args:
        where: a column and the values of it that are wanted; None: all rows.

    Raises:
        ArtifactError: it is missing, no table, or has no such column.
    """
    return cast(list[dict[str, Any]], arrow_table(ref, where).to_pylist())


def arrow_table(ref: Ref, where: tuple[str, Collection[str]] | None = None) -> pa.Table:
    """A Parquet artifact as an Arrow table; takes and raises what `read_table` does."""
    data = read_bytes(ref)
    try:
        file = pq.ParquetFile(io.BytesIO(data))
        return file.read() if where is None else _rows_where(file, *where)
    except (pa.ArrowException, OSError, ValueError, TypeError, LookupError) as error:  # another file, or a broken one
        raise ArtifactError(f"artifact {ref.uri} is no table of this kind: {error}") from error


def _rows_where(file: pq.ParquetFile, column: str, values: Collection[str]) -> pa.Table:
    """The rows that hold one of `values`; only row groups that have one are decoded whole."""
    leaves = [file.schema.column(n).path for n in range(len(file.schema))]
    if column not in leaves:
        raise LookupError(f"it has no column {column!r}")
    place = leaves.index(column)
    wanted = sorted(values)

    def may_hold(group: int) -> bool:
        known = file.metadata.row_group(group).column(place).statistics
        if known is None or not known.has_min_max:
            return True
        first = bisect.bisect_left(wanted, known.min)
        return first < len(wanted) and wanted[first] <= known.max

    def holds(group: int) -> bool:
        return bool(pc.any(pc.is_in(file.read_row_group(group, [column])[column], value_set=sought)).as_py())

    sought = pa.array(wanted, pa.string())
    groups = [n for n in range(file.num_row_groups) if may_hold(n)]
    table = file.read_row_groups([n for n in groups if holds(n)])
    return table.filter(pc.is_in(table[column], value_set=sought))


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
    return write_table(uri, rows, PROBLEMS, row_group=ROW_GROUP)


def read_problems(ref: Ref, ids: Collection[str] | None = None) -> dict[str, Problem]:
    """The problems of a `PROBLEMS` artifact by id, in the order they were written.

    Args:
        ids: those that are wanted; None: all. Ids that it does not hold are left out.

    Raises:
        ArtifactError: it is missing, or another artifact.
    """
    rows = read_table(ref, None if ids is None else ("problem_id", ids))
    try:
        return {
            row["problem_id"]: Problem(
                id=row["problem_id"],
                split=row["split"],
                domain=row["domain"],
                messages=load_messages(row["messages"]),
                verifier=json.loads(row["verifier"]),
            )
            for row in rows
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
