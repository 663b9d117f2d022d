"""A replica: its engine, which loads in the background, and the versions that its runs had published."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import TYPE_CHECKING, Any

from pmd.services.common.app import NotReady
from pmd.services.common.wire import Policy, Sampling
from pmd.services.rollout.batching import Batcher, Said
from pmd.services.rollout.completion import Completion, Row
from pmd.services.rollout.published import Published
from pmd.services.rollout.settings import RolloutSettings

if TYPE_CHECKING:
    from pmd.services.rollout.engines import Engine

log = logging.getLogger(__name__)


def start_engine(settings: RolloutSettings, published: Published) -> Engine:
    """Import torch, make the engine, load the desired version of the runs that fit."""
    # Threads that spin while they wait cost a factor of 20 on shared cores; OpenMP reads this when it is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    engine: Engine
    if settings.rollout_engine == "vllm":
        from pmd.services.rollout.engines.vllm.engine import VllmEngine  # noqa: PLC0415 -- imports transformers

        engine, residents = VllmEngine(settings), 1
    else:
        from pmd.services.rollout.engines.transformers.engine import TransformersEngine  # noqa: PLC0415 -- imports torch

        engine, residents = TransformersEngine(settings), settings.rollout_resident_runs
    for policy in reversed(list(islice(published.desired().values(), residents))):
        try:
            engine.load(policy)
        except Exception:  # whatever is wrong with one run's weights, the others are served
            log.exception("published weights cannot be loaded", extra={"model": policy.model})
    return engine


class Replica:
    """The running service; its state lives in `<state_dir>/rollout`."""

    def __init__(self, settings: RolloutSettings) -> None:
        self.settings = settings
        self.published = Published(settings.service_dir("rollout") / "published.sqlite")
        self.starting: Future[Engine] = Future()
        """The engine, once it is there."""
        self.batcher = Batcher(self._draw, settings.rollout_burst_wait_s, lambda: self.engine().side_by_side)

    def start(self) -> None:
        """Load the engine; what goes wrong is reported by `/readyz` and by every job."""
        try:
            self.starting.set_result(start_engine(self.settings, self.published))
        except Exception as error:  # told to whoever asks for the engine, and each job waits for somebody to mend it
            log.exception("the engine does not start")
            self.starting.set_exception(error)

    def engine(self) -> Engine:
        """The engine.

        Raises:
            NotReady: while it starts, or when it could not.
        """
        if not self.starting.done():
            raise NotReady("the engine is starting: torch and the published weights are being loaded")
        if cause := self.starting.exception():
            raise NotReady(f"the engine does not start: {cause}; mend that, and see the log")
        return self.starting.result()

    def close(self) -> None:
        """End what the engine runs outside this process."""
        if self.starting.done() and not self.starting.exception():
            self.starting.result().close()

    def _draw(
        self,
        policy: Policy,
        rows: Sequence[Row],
        sampling: Sampling,
        check: Callable[[], None],
        said: Said | None,
    ) -> list[Completion]:
        return self.engine().generate(policy, rows, sampling, check, said=said)

    def ready(self) -> dict[str, Any]:
        """What `/readyz` reports: the engine, and each run's desired and loaded version."""
        loaded = self.engine().loaded()
        runs = {
            run: {
                "desired": policy.weights.version,
                "loaded": loaded.get(run),
                "ready": loaded.get(run) == policy.weights.version,
            }
            for run, policy in self.published.desired().items()
        }
        return {**self.engine().details(), "runs": runs}
