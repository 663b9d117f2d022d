"""The health check of a container: `python -m pmd.services.common.health PORT` asks the service there for `/readyz`.

Standard library only: it is started every few seconds. Kubernetes asks by itself.
"""

from __future__ import annotations

import sys
from http.client import HTTPConnection, HTTPException

TIMEOUT_S = 8


def problem(port: int) -> str:
    """Why the service on this machine's `port` can't work; empty when it can."""
    direct = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)  # asks no proxy
    try:
        direct.request("GET", "/readyz")
        answer = direct.getresponse()
        return "" if answer.status == 200 else answer.read(2000).decode(errors="replace") or f"HTTP {answer.status}"
    except (OSError, HTTPException) as error:
        return str(error) or type(error).__name__
    finally:
        direct.close()


if __name__ == "__main__":
    sys.exit(problem(int(sys.argv[1])) or 0)
