"""The health check of a container: `python -m pmd.services.common.health PORT` asks the service there for `/readyz`.

Standard library only: it is started every few seconds. Kubernetes asks by itself.
"""

from __future__ import annotations

import sys
import urllib.error
import urllib.request

TIMEOUT_S = 8


def problem(port: int) -> str:
    """Why the service on this machine's `port` can't work; empty when it can."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"http://127.0.0.1:{port}/readyz", timeout=TIMEOUT_S):
            return ""
    except urllib.error.HTTPError as error:
        return error.read(2000).decode(errors="replace")
    except OSError as error:
        return str(error)


if __name__ == "__main__":
    sys.exit(problem(int(sys.argv[1])) or 0)
