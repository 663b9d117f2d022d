"""`Ledger`: the banks of an installation, and the transactions on them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from pmd.services.common.requests import MemoryCounts
from pmd.services.common.wire import Level, Ref
from pmd.services.memory.ledger import reads
from pmd.services.memory.ledger.items import BankMoved, Item, UnknownBank, Use
from pmd.services.memory.ledger.rows import load
from pmd.services.memory.ledger.schema import LEDGER
from pmd.services.memory.ledger.tables import BANKS, CONTEXTS, OF_A_BANK, STEPS, USES, WRITES
from pmd.services.memory.ledger.transaction import Transaction

T = TypeVar("T")


class Ledger:
    """All banks of an installation; thread-safe, shared by any number of processes.

    Reads that must fit together go through `read`; the other methods are one read each.
    """

    def __init__(self, url: str) -> None:
        """Connect; creates the tables or upgrades those of an older release. A database that is away is waited for.

        Raises:
            SchemaTooNew: when a newer release wrote the database.
        """
        self._database = LEDGER.open(url)
        self.dialect = self._database.dialect
        self._new = postgresql.insert if self.dialect == "postgresql" else sqlite.insert

    def ping(self) -> None:
        """Ask the database for a sign of life.

        Raises:
            Busy: it is out of reach.
        """
        with self._database.read() as db:
            db.execute(sa.select(1))

    def close(self) -> None:
        """Close the connections."""
        self._database.close()

    # ------------------------------------------------------------ writing

    def apply(self, bank: str, key: str, change: Callable[[Transaction], None]) -> MemoryCounts:
        """Run a job's `change` once for ever for this key, in one transaction, and return the bank's size after it."""
        with self._database.write() as db:
            held = self._lock(db, bank)
            done = sa.select(WRITES.c.key).where(WRITES.c.bank == bank, WRITES.c.key == key)
            if db.execute(done).first() is None:
                self._run(db, bank, key, held, change)
                db.execute(sa.insert(WRITES), [{"bank": bank, "key": key, "digest": None, "answer": None}])
        return self.counts(bank)

    def change(self, bank: str, change: Callable[[Transaction], T], *, create: bool = False) -> T:
        """Run a person's `change` in one transaction; what it raises undoes it.

        Args:
            create: make the bank when there is none (import).

        Raises:
            UnknownBank: when there is none.
        """
        with self._database.write() as db:
            if not create and not reads.seq(db, bank):
                raise UnknownBank(bank)
            return self._run(db, bank, "", self._lock(db, bank), change)

    def _lock(self, db: sa.Connection, bank: str) -> int:
        """Lock a bank's row, which serialises its writers on every database; returns its `seq`."""
        db.execute(self._new(BANKS).on_conflict_do_nothing(), [{"bank": bank, "seq": 0, "created": time.time()}])
        return int(db.execute(sa.select(BANKS.c.seq).where(BANKS.c.bank == bank).with_for_update()).scalar_one())

    def _run(self, db: sa.Connection, bank: str, key: str, seq: int, change: Callable[[Transaction], T]) -> T:
        tx = Transaction(db, bank, key, seq + 1)
        result = change(tx)
        tx.close()
        sizes = {level: BANKS.c[level] + by for level, by in tx.grown.items()}
        db.execute(sa.update(BANKS).where(BANKS.c.bank == bank).values(seq=seq + 1, **sizes))
        return result

    def begin_step(self, bank: str, step: int) -> int:
        """Mark where a step begins, unless that is done; returns how many changes by people take effect with it.

        Where nothing is recorded (frozen memory, an agent's retrieval) this is what begins a step.
        """
        with self.read() as db:
            if (edits := self._edits(db, bank, step)) is not None or not reads.seq(db, bank):
                return edits or 0
        self.apply(bank, f"step {step}", lambda tx: tx.begin_step(step))
        with self.read() as db:
            return self._edits(db, bank, step) or 0

    def _edits(self, db: sa.Connection, bank: str, step: int) -> int | None:
        return db.scalar(sa.select(STEPS.c.edits).where(STEPS.c.bank == bank, STEPS.c.step == step))

    def note_contexts(self, bank: str, job: str, step: int, seq: int, artifact: Ref, uses: Sequence[Use]) -> None:
        """Remember which contexts a job rendered and what they show (Law 8); the bank's `seq` stays."""
        row = {"bank": bank, "job": job, "step": step, "seq": seq, "artifact": artifact.model_dump_json()}
        shown = [{"bank": bank, "job": job, "step": step, "reward": None} | asdict(use) for use in uses]
        with self._database.write() as db:
            # A job that is repeated after a kill writes its artifact anew, from the memory of that moment.
            for table in (CONTEXTS, USES):
                db.execute(sa.delete(table).where(table.c.bank == bank, table.c.job == job))
            db.execute(sa.insert(CONTEXTS), [row | {"at": time.time()}])
            if shown:
                db.execute(sa.insert(USES), shown)

    def delete(self, bank: str, seqs: frozenset[int] | None = None) -> None:
        """Forget a bank entirely.

        Args:
            seqs: where it may be; None: anywhere.

        Raises:
            UnknownBank: when it does not exist.
            BankMoved: when it is at another `seq`.
        """
        with self._database.write() as db:
            self._lock(db, bank)
            self._check(db, bank, seqs)
            db.execute(sa.delete(BANKS).where(BANKS.c.bank == bank))
            for table in OF_A_BANK:
                db.execute(sa.delete(table).where(table.c.bank == bank))

    def _check(self, db: sa.Connection, bank: str, seqs: frozenset[int] | None) -> None:
        if not (seq := reads.seq(db, bank)):
            raise UnknownBank(bank)
        if seqs is not None and seq not in seqs:
            raise BankMoved(seq)

    # ------------------------------------------------------------ reading

    def check(self, bank: str, seqs: frozenset[int] | None) -> None:
        """Refuse what `delete` would refuse."""
        with self.read() as db:
            self._check(db, bank, seqs)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """One moment of the ledger, for the functions of `reads`."""
        with self._database.read() as db:
            yield db

    @contextmanager
    def at_step(self, bank: str, step: int) -> Iterator[reads.StepView]:
        """A bank as a step sees it."""
        with self._database.read() as db:
            yield reads.StepView(db, bank, step)

    def counts(self, bank: str) -> MemoryCounts:
        """Active items by level and the bank's `seq`.

        Raises:
            UnknownBank: when nothing was ever written to it.
        """
        with self.read() as db:
            return reads.counts(db, bank)

    def seq(self, bank: str) -> int:
        """The bank's `seq`; 0 for a bank that does not exist yet."""
        with self.read() as db:
            return reads.seq(db, bank)

    def banks(self) -> dict[str, int]:
        """`seq` by bank."""
        with self.read() as db:
            return {row.bank: row.seq for row in db.execute(sa.select(BANKS).order_by(BANKS.c.bank))}

    def active(self, bank: str, level: Level, scopes: Sequence[str] | None = None) -> list[Item]:
        """Active items of a level, oldest first; of some problems or clusters only when `scopes` is given."""
        with self.read() as db:
            return reads.active(db, bank, level, scopes)

    def changes(self, bank: str, after_seq: int, limit: int = 1000) -> list[Item]:
        """Items that changed after `after_seq`, each at its newest version, in order of (seq, id).

        Every status is reported: whoever keeps a copy removes what is no longer active. What one transaction changed
        is never cut in two, so there may be more than `limit` items, and the last one's `seq` is where to go on. Seqs
        become visible in order (the bank's row is locked while one is handed out): a reader who goes on from the
        highest seq it has seen misses nothing.
        """
        with self.read() as db:
            return reads.changes(db, bank, after_seq, limit)

    def item(self, bank: str, item_id: str) -> Item | None:
        """One item, or None."""
        with self.read() as db:
            return load(db, bank, [item_id]).get(item_id)

    def items(self, bank: str, ids: Sequence[str]) -> dict[str, Item]:
        """Items by id; ids that the bank does not hold are left out."""
        with self.read() as db:
            return load(db, bank, ids)

    def problem_ids(self, bank: str) -> list[str]:
        """The problems that the bank has experience of."""
        with self.read() as db:
            return reads.problem_ids(db, bank)

    def problems(self, bank: str, ids: Sequence[str] | None = None) -> dict[str, str]:
        """Bodies (JSON) of the problems that the bank has experience of, by id; of some only when `ids` is given."""
        with self.read() as db:
            return reads.problems(db, bank, ids)
