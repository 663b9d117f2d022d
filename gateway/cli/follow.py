"""Following a run: replay its log, then tail it, through restarts of the gateway.

Invariant: every event is yielded exactly once and in order, whatever happens to the connection: `seq` says where
to go on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from pmd.gateway.cli.client import Gateway, Unreachable

ENDS = frozenset({"succeeded", "failed", "cancelled"})
RETRY_S = 1.0
PATIENCE_S = 300.0
"""How long a gateway may be away before following gives up."""


def follow(
    gateway: Gateway, run: str, after: int = 0, *, quiet: Callable[[], None] = lambda: None
) -> Iterator[dict[str, Any]]:
    """The events of `run` with a `seq` above `after`, until it has ended.

    Args:
        quiet: called at each heartbeat of the stream: nothing has happened for a while.

    Raises:
        CliError: when the run does not exist, or when the gateway stays away for `PATIENCE_S`.
    """
    seq = after
    lost_at: float | None = None
    while True:
        news = False
        try:
            ended = gateway.get(f"/v1/runs/{run}")["status"] in ENDS
            lost_at = None
            for data in gateway.stream(
                "GET", f"/v1/runs/{run}/events", headers={"Last-Event-ID": str(seq)}, beats=True
            ):
                if not data:
                    quiet()
                    continue
                event = json.loads(data)
                if event["seq"] > seq:
                    news, seq = True, event["seq"]
                    yield event
            # The stream ends with the run, and with the gateway: only a run that had ended and had no more to say is
            # over. Not at the event `run.ended`, which a run that failed and was resumed has in mid-log.
            if ended and not news:
                return
        except Unreachable:
            lost_at = lost_at or time.monotonic()
            if time.monotonic() - lost_at > PATIENCE_S:
                raise
        if not news:
            time.sleep(RETRY_S)
