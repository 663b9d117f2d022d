"""Make the files that docker-compose.yml takes its secrets from, those that are not there: `make_secrets.py FOLDER`.

Invariants:
- What is there stays: passwords are in the volumes of servers too.
- The folder is its owner's alone. The files in it can be read by all, because a container's user is another one; it
  sees the file that is mounted and not the folder.
"""

from __future__ import annotations

import secrets
import sys
from pathlib import Path


def make(folder: Path) -> list[str]:
    """The names of the files that were made."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    made = []

    def one(name: str, content: str) -> str:
        path = folder / name
        if not path.exists():
            part = path.with_suffix(".tmp")
            part.write_text(content, encoding="ascii")
            part.chmod(0o444)
            part.replace(path)
            made.append(name)
        return path.read_text(encoding="ascii")

    one("PMD_TOKEN", secrets.token_urlsafe(32))
    one("PMD_WEAVIATE_API_KEY", secrets.token_urlsafe(32))
    postgres = one("postgres-password", secrets.token_hex(24))
    redis = one("redis-password", secrets.token_hex(24))
    one("PMD_DATABASE_URL", f"postgresql+psycopg://pmd:{postgres}@postgres:5432/pmd")
    one("PMD_REDIS_URL", f"redis://:{redis}@redis:6379/0")
    return made


if __name__ == "__main__":
    sys.stdout.write("".join(f"made {name}\n" for name in make(Path(sys.argv[1]))) or "all secrets are there\n")
