"""The keeper: runs vLLM's server in a process group of its own, and kills the group when the service has ended.

The service holds the other end of the keeper's stdin, which ends however the service dies, SIGKILL included. vLLM is
three processes (server, engine, worker), of which the first alone notices that its parent is gone. Standard library
only. Usage: `python -m pmd.services.rollout.engines.vllm.keeper PROGRAM ARGUMENT ...`, in a session of its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading


def _end_group() -> None:
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _watch() -> None:
    sys.stdin.buffer.read()
    _end_group()


if __name__ == "__main__":
    threading.Thread(target=_watch, daemon=True).start()
    code = subprocess.call(sys.argv[1:], stdin=subprocess.DEVNULL)
    print(f"vLLM's server ended with code {code}", file=sys.stderr, flush=True)
    _end_group()
