"""Limits of a machine, put on the test process."""

from __future__ import annotations

import contextlib
import errno
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileOpener


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """A full disk as this process sees it: no file grows beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class FullDisk:
    """A disk without space below a folder, as every writer of artifacts meets it, until `emptied`."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = True
        self.met = 0
        """Writes that it refused."""
        plain = LocalFileOpener.write

        def write(file: LocalFileOpener, *args: Any, **kwargs: Any) -> Any:
            if self.full and Path(file.path).is_relative_to(folder):
                self.met += 1
                raise OSError(errno.ENOSPC, "No space left on device")
            return plain(file, *args, **kwargs)

        monkeypatch.setattr(LocalFileOpener, "write", write)

    def emptied(self) -> None:
        """There is space again."""
        self.full = False
