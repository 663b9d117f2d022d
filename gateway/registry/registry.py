"""The run registry: the state of every run in SQL, and the only code that changes it.

Invariants:
- A status changes only along `VALID_TRANSITIONS`.
- A controller writes only under a lease. Each claim raises the run's epoch, and every write of a controller names
  the epoch that it claimed: a stale owner writes nothing and learns it by `LeaseLost`.
- A change and its event are one transaction; `events.seq` of a run grows by one and has no gaps.
- A phase is recorded at most once: an attempt that has ended stays ended.
- With a run's end or pause stands what services are to be told of it, until they have done it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from pmd.gateway.loop.alarms import Alarm, at_creation
from pmd.gateway.loop.state import Phase, PhaseName, Record, RunState, Service, last_step
from pmd.gateway.recipes.inputs import Inputs
from pmd.gateway.recipes.recipe import Recipe
from pmd.gateway.registry.recorded import Attempt, recorded
from pmd.gateway.registry.status import (
    ACTIVE,
    DELETE,
    ENDED,
    GOALS,
    BeingDeleted,
    Desired,
    ForbiddenTransition,
    check_transition,
)
from pmd.gateway.registry.tables import ALARMS, ARTIFACTS, EVENTS, PHASES, RELEASES, RUNS
from pmd.gateway.views import EventView, RunStatus
from pmd.services.common.sql import Database
from pmd.services.common.wire import Ref, Weights

LEASE_S = 30.0
"""How long a run waits for an owner that has died. Owners renew several times in it."""


LONGEST_DELAY_S = 600.0
"""No run is left alone for longer."""
RELEASE_AGAIN_S = 30.0
"""How long a release that a service did not answer is left alone."""
HOLDERS = (Service.ROLLOUT, Service.MEMORY, Service.TRAINER)
"""Services that hold memory for a run."""


class LeaseLost(RuntimeError):
    """Somebody else owns the run now; nothing was written."""


class UnknownRun(KeyError):
    """No such run."""


class IdempotencyConflict(ValueError):
    """The idempotency key already names a run with another recipe."""


@dataclass(frozen=True)
class Lease:
    """The right to write to a run, until somebody claims a higher epoch."""

    run: str
    owner: str
    epoch: int


class Registry:
    """Runs, their phases, events and artifacts; thread-safe, shared by any number of processes."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self.database = database
        self._clock = clock

    # ------------------------------------------------------------ what people do

    def create(self, run: str, recipe: Recipe, inputs: Inputs, *, key: str | None = None) -> bool:
        """Add a run; False when it exists already, made by the same request.

        Raises:
            IdempotencyConflict: when `key` or the id names a run with another recipe.
        """
        now = self._clock()
        row = {
            "id": run,
            "name": recipe.name,
            "method": recipe.method,
            "status": RunStatus.QUEUED,
            "desired": "run",
            "recipe": recipe.model_dump_json(),
            "idempotency_key": key,
            "inputs": inputs.model_dump_json(),
            "step": 0,
            "steps": last_step(recipe),
            "version": 0,
            "epoch": 0,
            "lease_until": 0.0,
            "due": 0.0,
            "created": now,
            "updated": now,
        }
        try:
            with self.database.write() as db:
                db.execute(insert(RUNS).values(row))
                made: dict[str, Any] = {"name": recipe.name, "method": recipe.method, "model": inputs.model}
                made |= {"problems": inputs.source} if inputs.source else {}
                made |= {"bank": inputs.start.origin, "bank_sha256": inputs.start.sha256} if inputs.start else {}
                made |= {"parent": inputs.parent.run, "parent_step": inputs.parent.step} if inputs.parent else {}
                self._log(db, run, "run.created", made)
                if inputs.bad_records:
                    facts = {"count": inputs.bad_records, "examples": list(inputs.bad_examples)}
                    self._log(db, run, "problems.left_out", facts)
                if inputs.too_long:
                    facts = {"count": inputs.too_long, "examples": list(inputs.long_examples)}
                    self._log(db, run, "problems.too_long", facts)
                for alarm in at_creation(inputs):
                    self._keep_alarm(db, run, None, alarm)
        except IntegrityError as error:
            with self.database.read() as db:
                known = db.scalar(select(RUNS.c.recipe).where(RUNS.c.id == run))
            if known is None:
                raise  # nothing of that name: the row itself is wrong
            if Recipe.model_validate_json(known) == recipe:
                return False
            raise IdempotencyConflict(f"run {run!r} exists with another recipe; use a new Idempotency-Key") from error
        return True

    def find_key(self, key: str) -> tuple[str, Recipe] | None:
        """Run and recipe that an idempotency key named, if it was used; the recipe with the defaults of today."""
        with self.database.read() as db:
            row = db.execute(select(RUNS.c.id, RUNS.c.recipe).where(RUNS.c.idempotency_key == key)).first()
        return (row[0], Recipe.model_validate_json(row[1])) if row else None

    def ask(self, run: str, desired: Desired) -> None:
        """Note what a person wants of a run; whoever advances it obeys. `run` re-opens a paused or failed run.

        Raises:
            UnknownRun: when there is none.
            ForbiddenTransition: when the run's status leaves nothing to do.
            BeingDeleted: when it is being deleted.
        """
        with self.database.write() as db:
            row = self._locked(db, run)
            if row["desired"] == DELETE:
                raise BeingDeleted(run)
            status, goal = RunStatus(row["status"]), GOALS[desired]
            if (status is goal and status not in ACTIVE) or row["desired"] == desired == "cancel":
                return
            reopen = desired == "run" and status not in ACTIVE
            if reopen or desired != "run":  # else a pause that was not obeyed yet is taken back
                check_transition(run, status, goal)
            if row["desired"] == "cancel" and status is not RunStatus.FAILED:
                raise ForbiddenTransition(run, RunStatus.CANCELLED)
            if row["desired"] != desired:
                # The sentence of an alarm's pause is obsolete as soon as a person says what they want.
                db.execute(update(RUNS).where(RUNS.c.id == run).values(desired=desired, due=0.0, error=None))
                self._log(db, run, "run.desired", {"desired": desired})
            if reopen:
                # The epoch grows, or an owner that has slept since before the end could still write.
                self._set_status(db, run, status, RunStatus.QUEUED, epoch=row["epoch"] + 1, error=None)
                db.execute(
                    update(RUNS).where(RUNS.c.id == run).values(due=0.0, lease_until=0.0, waiting_since=None),
                )
                db.execute(
                    update(PHASES).where(PHASES.c.run_id == run, PHASES.c.status == "failed").values(status="cleared"),
                )
                # It needs again what it holds. It goes on with no job that was to be cancelled, so that stays owed.
                db.execute(delete(RELEASES).where(RELEASES.c.run_id == run, RELEASES.c.job == ""))

    # ------------------------------------------------------------ what a controller does

    def due(self) -> dict[str, int]:
        """Runs that want an owner now, each with its epoch; first the one that was left alone longest."""
        query = select(RUNS.c.id, RUNS.c.epoch).where(self._wants_owner()).order_by(RUNS.c.updated)
        with self.database.read() as db:
            return {row[0]: row[1] for row in db.execute(query)}

    def claim(self, run: str, owner: str, *, epoch: int | None = None) -> Lease | None:
        """The lease of a run; None when it has an owner, has ended, or is to be left alone yet.

        Args:
            epoch: None as well when the run has been claimed since it had this one.
        """
        awaited = RUNS.c.id == run if epoch is None else and_(RUNS.c.id == run, RUNS.c.epoch == epoch)
        with self.database.write() as db:
            claimed = db.execute(
                update(RUNS)
                .where(awaited, self._wants_owner())
                .values(epoch=RUNS.c.epoch + 1, lease_owner=owner, lease_until=self._clock() + LEASE_S)
            ).rowcount
            if not claimed:
                return None
            return Lease(run, owner, self._locked(db, run)["epoch"])

    def renew(self, lease: Lease, *, answered: bool = False) -> Desired:
        """Keep the lease, and learn what people ask for: from then on a run that shall run is running.

        Args:
            answered: all services that the run asked have answered and none waits, so the run does not any more.

        Raises:
            LeaseLost: when another owner has claimed the run.
        """
        with self.database.write() as db:
            row = self._fence(db, lease, {"waiting_since": None} if answered else {})
            if answered and row["waiting_since"] is not None:
                self._log(db, lease.run, "run.waited", {"seconds": self._clock() - row["waiting_since"]})
            desired: Desired = row["desired"]
            if row["status"] == RunStatus.QUEUED and desired == "run":
                self._set_status(db, lease.run, RunStatus.QUEUED, RunStatus.RUNNING)
        return desired

    def release(self, lease: Lease, *, delay: float = 0.0) -> None:
        """Give the lease back; nobody advances the run for `delay` seconds."""
        with self.database.write() as db:
            self._fence(db, lease, {"lease_until": 0.0, "lease_owner": None, "due": self._clock() + delay})

    def state(self, run: str) -> tuple[RunState, dict[tuple[int, PhaseName], Attempt]]:
        """What is recorded of a run, for the plan, and the attempts of phases that are not.

        Raises:
            UnknownRun: when there is none.
        """
        with self.database.read() as db:
            row = db.execute(select(RUNS.c.recipe, RUNS.c.inputs).where(RUNS.c.id == run)).mappings().first()
            if row is None:
                raise UnknownRun(run)
            of_run = select(PHASES).where(PHASES.c.run_id == run).order_by(PHASES.c.step, PHASES.c.attempt)
            return recorded(run, row, db.execute(of_run).mappings())

    def submitted(self, lease: Lease, phase: Phase, request_hash: str) -> None:
        """Note that a phase is about to be submitted; noting it again changes nothing."""
        at = and_(PHASES.c.run_id == lease.run, PHASES.c.key == phase.key)
        with self.database.write() as db:
            self._fence(db, lease, {})
            if db.execute(select(PHASES.c.key).where(at)).first():
                return
            db.execute(
                insert(PHASES).values(
                    run_id=lease.run,
                    step=phase.step,
                    name=phase.name,
                    attempt=phase.attempt,
                    key=phase.key,
                    service=phase.call.service,
                    status="submitted",
                    request_hash=request_hash,
                    submitted=self._clock(),
                )
            )
            self._log(db, lease.run, "phase.submitted", _about(phase))

    def succeeded(
        self,
        lease: Lease,
        phase: Phase,
        record: Record,
        *,
        step: int,
        version: int | None = None,
        edits: int = 0,
        alarms: Sequence[Alarm] = (),
    ) -> None:
        """Record a phase: its result, its artifacts, the run's progress and the events, in one transaction.

        `step` counts the steps that are complete with it; `version` is given when it puts a policy version in force;
        `edits` counts changes of memory by people that take effect with its step; `alarms` are what the record gives
        reason to say, and one that pauses asks for a pause as a person would.
        """
        progress = {"waiting_since": None, "step": step} | ({} if version is None else {"version": version})
        with self.database.write() as db:
            old = self._fence(db, lease, progress)
            ended = self._end_phase(
                db,
                phase,
                status="succeeded",
                result=json.dumps(dict(record.result)),
                facts=json.dumps(dict(record.facts)),
                seconds=record.seconds,
            )
            if not ended:
                return
            for artifact in _artifacts(phase, record.result):
                db.execute(insert(ARTIFACTS).values(run_id=lease.run, **artifact))
            self._log(db, lease.run, "phase.succeeded", _about(phase) | {"seconds": record.seconds})
            if edits:
                edited = {"step": phase.step, "edits": edits, "seq": record.result["seq"]}
                self._log(db, lease.run, "memory.edited", edited)
            for alarm in alarms:
                self._raise_alarm(db, lease.run, phase.step, alarm)
            grave = next((alarm.message for alarm in alarms if alarm.pauses), None)
            if grave and old["desired"] == "run":
                paused = f"step {phase.step}: {grave}"
                db.execute(update(RUNS).where(RUNS.c.id == lease.run).values(desired="pause", error=paused))
            for complete in range(old["step"] + 1, step + 1):
                self._log(db, lease.run, "step.completed", {"step": complete})

    def failed(self, lease: Lease, phase: Phase, error: str, *, retry: bool, works: bool = False) -> None:
        """Record that an attempt of a phase has failed.

        Args:
            works: its job may still work, so it is to be cancelled.
        """
        with self.database.write() as db:
            self._fence(db, lease, {"waiting_since": None})
            if self._end_phase(db, phase, status="failed", error=error):
                self._log(db, lease.run, "phase.failed", _about(phase) | {"error": error, "retry": retry})
                if works:
                    _owe(db, lease.run, {(phase.call.service, phase.key)})

    def waits(self, lease: Lease, reason: str) -> float:
        """Note what the run waits for; returns for how long it has waited, whatever for."""
        now = self._clock()
        with self.database.write() as db:
            since = self._fence(db, lease, {})["waiting_since"]
            known = since is not None and _last_reason(db, lease.run) == reason
            if since is None:
                since = now
                db.execute(update(RUNS).where(RUNS.c.id == lease.run).values(waiting_since=now))
            if not known:
                self._log(db, lease.run, "run.waiting", {"reason": reason})
        return now - float(since)

    def finish(
        self, lease: Lease, status: RunStatus, error: str | None = None, *, alarms: Sequence[Alarm] = ()
    ) -> None:
        """Change a run's status and give the lease back; what services hold for it is to be released (`owed`).

        A pause keeps the sentence of the alarm that asked for it.
        """
        with self.database.write() as db:
            old = self._fence(db, lease, {"lease_until": 0.0, "lease_owner": None, "due": 0.0, "waiting_since": None})
            if status is RunStatus.PAUSED:
                error = error or old["error"]
            for alarm in alarms:
                self._raise_alarm(db, lease.run, None, alarm)
            if status is RunStatus.CANCELLED:
                self.abandon(db, lease.run, "the run was cancelled")
            elif status is RunStatus.FAILED:
                self.abandon(db, lease.run, "the run failed")
            _owe(db, lease.run, {(service, "") for service in HOLDERS})
            self._set_status(db, lease.run, RunStatus(old["status"]), status, error=error)

    def owing(self) -> list[str]:
        """Runs that owe a release to a service now. Each is named once in `RELEASE_AGAIN_S`."""
        now = self._clock()
        with self.database.write() as db:
            runs = [row[0] for row in db.execute(select(RELEASES.c.run_id).where(RELEASES.c.due <= now).distinct())]
            if runs:
                again = now + RELEASE_AGAIN_S
                db.execute(update(RELEASES).where(RELEASES.c.run_id.in_(runs)).values(due=again))
        return runs

    def owed(self, run: str) -> list[tuple[str, str]]:
        """What a run owes: (service, key of a job to cancel, or empty for all that is held); jobs first."""
        query = select(RELEASES.c.service, RELEASES.c.job).where(RELEASES.c.run_id == run)
        with self.database.read() as db:
            return [(row[0], row[1]) for row in db.execute(query.order_by(RELEASES.c.job.desc()))]

    def released(self, run: str, service: str, job: str) -> None:
        """Note that a service has done what was owed."""
        paid = and_(RELEASES.c.run_id == run, RELEASES.c.service == service, RELEASES.c.job == job)
        with self.database.write() as db:
            db.execute(delete(RELEASES).where(paid))

    # ------------------------------------------------------------ what readers ask

    def run(self, run: str) -> RowMapping:
        """The row of a run.

        Raises:
            UnknownRun: when there is none.
        """
        with self.database.read() as db:
            row = db.execute(select(RUNS).where(RUNS.c.id == run)).mappings().first()
        if row is None:
            raise UnknownRun(run)
        return row

    def reason(self, run: RowMapping) -> str | None:
        """What a run waits for, None when for nothing.

        Args:
            run: its row.
        """
        if run["waiting_since"] is None:
            return None
        with self.database.read() as db:
            return _last_reason(db, run["id"])

    def runs(self, *, limit: int, after: str | None = None, status: RunStatus | None = None) -> list[RowMapping]:
        """Runs, newest first, that come after the run `after` in that order."""
        query = select(RUNS).order_by(RUNS.c.created.desc(), RUNS.c.id.desc()).limit(limit)
        if status is not None:
            query = query.where(RUNS.c.status == status)
        if after is not None:
            created = self.run(after)["created"]
            query = query.where(
                or_(RUNS.c.created < created, and_(RUNS.c.created == created, RUNS.c.id < after)),
            )
        with self.database.read() as db:
            return list(db.execute(query).mappings())

    def count_by_status(self) -> dict[str, int]:
        """Runs by status."""
        with self.database.read() as db:
            rows = db.execute(select(RUNS.c.status, func.count()).group_by(RUNS.c.status)).all()
        return {row[0]: row[1] for row in rows}

    def phases(self, run: str, *, since: int = 0) -> list[RowMapping]:
        """All attempts of phases of the steps from `since` on, oldest first."""
        of_run = and_(PHASES.c.run_id == run, PHASES.c.step >= since)
        query = select(PHASES).where(of_run).order_by(PHASES.c.submitted, PHASES.c.attempt)
        with self.database.read() as db:
            return list(db.execute(query).mappings())

    def events(
        self, run: str, *, after: int = 0, limit: int | None = 500, types: Sequence[str] | None = None
    ) -> list[EventView]:
        """Events with a higher `seq` than `after`, oldest first; of some types only when `types` is given."""
        query = select(EVENTS).where(EVENTS.c.run_id == run, EVENTS.c.seq > after).order_by(EVENTS.c.seq).limit(limit)
        if types is not None:
            query = query.where(EVENTS.c.type.in_(types))
        with self.database.read() as db:
            rows = db.execute(query).mappings().all()
        return [EventView(seq=r["seq"], ts=r["ts"], type=r["type"], payload=json.loads(r["payload"])) for r in rows]

    def alarms(self, runs: Sequence[str]) -> dict[str, list[RowMapping]]:
        """The newest alarm of each kind, by run; runs without one are left out."""
        query = select(ALARMS).where(ALARMS.c.run_id.in_(runs)).order_by(ALARMS.c.run_id, ALARMS.c.kind)
        found: dict[str, list[RowMapping]] = {}
        with self.database.read() as db:
            for row in db.execute(query).mappings():
                found.setdefault(row["run_id"], []).append(row)
        return found

    def latest(self, run: str) -> dict[PhaseName, tuple[int, dict[str, Any]]]:
        """Step and result of the newest record of each phase of a run."""
        done = and_(PHASES.c.run_id == run, PHASES.c.status == "succeeded")
        newest = select(PHASES.c.name, func.max(PHASES.c.step).label("step")).where(done).group_by(PHASES.c.name)
        last = newest.subquery()
        query = select(PHASES.c.name, PHASES.c.step, PHASES.c.result).join(
            last, and_(PHASES.c.name == last.c.name, PHASES.c.step == last.c.step)
        )
        with self.database.read() as db:
            rows = db.execute(query.where(done)).all()
        return {PhaseName(name): (step, json.loads(result)) for name, step, result in rows}

    def results(
        self, runs: Sequence[str], names: Sequence[PhaseName]
    ) -> dict[str, list[tuple[int, PhaseName, dict[str, Any]]]]:
        """Step, phase and result of the records of some phases, by run and in the order of steps; runs without one are
        left out."""
        wanted = and_(PHASES.c.run_id.in_(runs), PHASES.c.name.in_(names), PHASES.c.status == "succeeded")
        query = select(PHASES.c.run_id, PHASES.c.step, PHASES.c.name, PHASES.c.result).where(wanted)
        found: dict[str, list[tuple[int, PhaseName, dict[str, Any]]]] = {}
        with self.database.read() as db:
            for run, step, name, result in db.execute(query.order_by(PHASES.c.run_id, PHASES.c.step)):
                found.setdefault(run, []).append((step, PhaseName(name), json.loads(result)))
        return found

    # ------------------------------------------------------------ inside a transaction

    def abandon(self, db: Connection, run: str, cause: str) -> None:
        """End the phases of an ended run whose jobs may still work; that the jobs end too is owed from now on."""
        open_ = and_(PHASES.c.run_id == run, PHASES.c.status == "submitted")
        rows = db.execute(select(PHASES).where(open_)).mappings().all()
        db.execute(update(PHASES).where(open_).values(status="cancelled", error=cause, ended=self._clock()))
        for row in rows:
            about = {name: row[name] for name in ("step", "name", "attempt", "key")}
            self._log(db, run, "phase.failed", about | {"error": cause, "retry": False})
        _owe(db, run, {(row["service"], row["key"]) for row in rows})

    def _wants_owner(self) -> ColumnElement[bool]:
        now = self._clock()
        wanted = or_(RUNS.c.status.in_(ACTIVE), and_(RUNS.c.status == RunStatus.PAUSED, RUNS.c.desired == "cancel"))
        # What lies further ahead than anybody sets it was written before the clock was set back.
        free = or_(RUNS.c.lease_until < now, RUNS.c.lease_until > now + 2 * LEASE_S)
        return and_(wanted, free, or_(RUNS.c.due <= now, RUNS.c.due > now + LONGEST_DELAY_S))

    def _locked(self, db: Connection, run: str) -> RowMapping:
        row = db.execute(select(RUNS).where(RUNS.c.id == run).with_for_update()).mappings().first()
        if row is None:
            raise UnknownRun(run)
        return row

    def _fence(self, db: Connection, lease: Lease, changes: Mapping[str, Any]) -> RowMapping:
        """Apply `changes` if the lease still holds, renewing it; returns the row as it was."""
        old = self._locked(db, lease.run)
        now = self._clock()
        values = {"lease_until": now + LEASE_S, "updated": now, **changes}
        mine = and_(RUNS.c.id == lease.run, RUNS.c.epoch == lease.epoch)
        if not db.execute(update(RUNS).where(mine).values(values)).rowcount:
            raise LeaseLost(f"run {lease.run!r} is at epoch {old['epoch']}, this owner claimed {lease.epoch}")
        return old

    def _set_status(self, db: Connection, run: str, old: RunStatus, new: RunStatus, **values: Any) -> None:
        check_transition(run, old, new)
        changed = {"status": new, "updated": self._clock(), **values}
        db.execute(update(RUNS).where(RUNS.c.id == run).values(changed))
        detail = {"status": new, **({"error": values["error"]} if values.get("error") else {})}
        self._log(db, run, "run.status", detail)
        if new in ENDED:
            self._log(db, run, "run.ended", detail)

    def _end_phase(self, db: Connection, phase: Phase, **values: Any) -> bool:
        at = and_(PHASES.c.key == phase.key, PHASES.c.status == "submitted")
        return bool(db.execute(update(PHASES).where(at).values(ended=self._clock(), **values)).rowcount)

    def note(self, run: str, type_: str, payload: Mapping[str, Any]) -> None:
        """A line of a run's log about what somebody did beside its phases.

        Raises:
            UnknownRun: when there is none.
        """
        with self.database.write() as db:
            self._locked(db, run)
            self._log(db, run, type_, payload)

    def _raise_alarm(self, db: Connection, run: str, step: int | None, alarm: Alarm) -> None:
        said = {"step": step, "kind": alarm.kind, "message": alarm.message, "pauses": alarm.pauses}
        self._log(db, run, "run.alarm", said)
        self._keep_alarm(db, run, step, alarm)

    def _keep_alarm(self, db: Connection, run: str, step: int | None, alarm: Alarm) -> None:
        # The run's row is locked: nobody else looks whether there is one.
        at = and_(ALARMS.c.run_id == run, ALARMS.c.kind == alarm.kind)
        again = {"message": alarm.message, "step": step, "count": ALARMS.c.count + 1}
        if not db.execute(update(ALARMS).where(at).values(again)).rowcount:
            new = {"run_id": run, "kind": alarm.kind, "message": alarm.message, "step": step, "count": 1}
            db.execute(insert(ALARMS).values(new))

    def _log(self, db: Connection, run: str, type_: str, payload: Mapping[str, Any]) -> None:
        # The run's row is locked by now (or was just inserted), so no other transaction takes the same number.
        last = db.execute(select(func.max(EVENTS.c.seq)).where(EVENTS.c.run_id == run)).scalar()
        db.execute(
            insert(EVENTS).values(
                run_id=run,
                seq=(last or 0) + 1,
                ts=self._clock(),
                type=type_,
                payload=json.dumps(payload),
            )
        )


def _owe(db: Connection, run: str, calls: Set[tuple[str, str]]) -> None:
    """Note calls that `run` owes to services; what it owes already stays owed.

    Args:
        calls: (service, key of a job to cancel, or empty for all that is held).
    """
    owed = select(RELEASES.c.service, RELEASES.c.job).where(RELEASES.c.run_id == run)
    new = calls - {(row[0], row[1]) for row in db.execute(owed)}
    if new:
        db.execute(insert(RELEASES), [{"run_id": run, "service": name, "job": job, "due": 0.0} for name, job in new])


def _last_reason(db: Connection, run: str) -> str | None:
    """What a run waits for, or waited for last."""
    of_run = and_(EVENTS.c.run_id == run, EVENTS.c.type == "run.waiting")
    newest = db.scalar(select(EVENTS.c.payload).where(of_run).order_by(EVENTS.c.seq.desc()).limit(1))
    return str(json.loads(newest)["reason"]) if newest else None


def _about(phase: Phase) -> dict[str, Any]:
    return {"step": phase.step, "name": phase.name, "attempt": phase.attempt, "key": phase.key}


def _artifacts(phase: Phase, result: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
    """The artifacts that a result refers to: every `Ref`, and the weights of a training step."""
    found: list[dict[str, Any]] = []
    for value in result.values():
        if isinstance(value, dict) and set(value) == set(Ref.model_fields):
            found.append({"kind": phase.name, "step": phase.step, **value})
        elif isinstance(value, dict) and set(value) == set(Weights.model_fields) and phase.name is PhaseName.TRAIN:
            found.append({"kind": "weights", "step": phase.step, **value})
    return found
