"""Space on the disks that an installation writes to."""

from __future__ import annotations

import shutil
from pathlib import Path

GIB = 1 << 30
LOW_BYTES = 2 * GIB
"""Below this the gateway says so with every run that it is asked for, whatever recipes say."""


def free_bytes(uri: str) -> int | None:
    """Bytes free where `uri` (a path or `file://`) is or would be made; None for stores that are no disk."""
    if "://" in uri and not uri.startswith("file://"):
        return None
    path = Path(uri.removeprefix("file://")).absolute()
    for folder in (path, *path.parents):
        try:
            return shutil.disk_usage(folder).free
        except FileNotFoundError:
            continue
        except OSError:  # a disk that does not even tell; who writes to it will say why
            return None
    return None
