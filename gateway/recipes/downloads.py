"""Downloads from the hub into its cache, of models and data sets alike: in the background, one of the same files.

Invariants:
- Who asks never waits: what is not here is begun, and `Coming` says how far it is.
- A download that failed or was cancelled is told once; who asks again begins it again, with the files that are whole.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pmd.gateway.recipes import hub

log = logging.getLogger(__name__)

Fetch = Callable[[hub.Files], Path]
"""Leads from files at a commit to the folder that holds them: `hub.snapshot` waits, `Downloads.require` does not."""


class Coming(Exception):
    """Files are being downloaded; `progress` says how far they are."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(
            f"{progress.files.title} is being downloaded, {progress.said()}; ask again, or follow it with"
            " POST /v1/recipes:fetch"
        )
        self.progress = progress


class Cancelled(Exception):
    """Somebody has ended the download."""


@dataclass
class Progress:
    """How far a download is."""

    files: hub.Files
    """At their commit."""
    total: int
    """Bytes that were not here."""
    done: int = 0
    """Bytes of them that have come."""
    error: Exception | None = None
    over: bool = False
    cancelled: threading.Event = field(default_factory=threading.Event, repr=False)
    thread: threading.Thread | None = field(default=None, repr=False)

    def said(self) -> str:
        """In words."""
        share = f", {min(1.0, self.done / self.total):.0%}" if self.total else ""
        return f"{self.done / 1e9:.2f} of {max(self.total, self.done) / 1e9:.2f} GB{share}"


class Downloads:
    """The downloads of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[hub.Files, Progress] = {}

    def require(self, files: hub.Files) -> Path:
        """The folder of `files`, at a commit.

        Raises:
            Coming: they are being downloaded; this call starts that.
            Cancelled, hub.HubError, OSError: of a download that came to an end without them, once.
        """
        with self._lock:
            progress = self._known.get(files)
            if progress is not None and progress.over:
                del self._known[files]
                if progress.error is not None:
                    raise progress.error
                progress = None
            if progress is None:
                lacking = hub.absent(files)
                if not lacking:
                    return files.repository.folder
                progress = self._known[files] = Progress(files, sum(lacking.values()))
                progress.thread = threading.Thread(
                    target=_download, args=(progress,), daemon=True, name=f"fetch {files.name}"
                )
                progress.thread.start()
        raise Coming(progress)

    def running(self) -> list[Progress]:
        """Those in progress, the oldest first."""
        with self._lock:
            return [progress for progress in self._known.values() if not progress.over]

    def cancel(self, name: str) -> list[Progress]:
        """End the downloads of `owner/name@commit`, within some megabytes; those that were running."""
        found = [progress for progress in self.running() if progress.files.name == name]
        for progress in found:
            progress.cancelled.set()
        return found


def _download(progress: Progress) -> None:
    files = progress.files

    def came(size: int) -> None:
        progress.done += size
        if progress.cancelled.is_set():
            raise Cancelled

    facts = {"repository": files.name, "bytes": progress.total}
    try:
        log.info("download begins", extra=facts)
        hub.snapshot(files, came)
        log.info("downloaded", extra=facts)
    except Exception as error:  # of the library or its transport, too; whoever asks is told
        if progress.cancelled.is_set():
            log.info("download cancelled", extra=facts)
            progress.error = Cancelled(
                f"the download of {files.title} was cancelled; ask again and it goes on with the files that are whole"
            )
        else:
            log.warning("not downloaded", extra=facts, exc_info=True)
            known = isinstance(error, hub.HubError | OSError)
            broken = f"the download of {files.title} broke off ({type(error).__name__}: {error}); ask again to go on"
            progress.error = error if known else hub.HubAway(broken)
    finally:
        progress.over = True
