"""Sign-in codes that were used, kept for all replicas of the gateway until they would have ended."""

from __future__ import annotations

from sqlalchemy import delete, insert
from sqlalchemy.exc import IntegrityError

from pmd.gateway.registry.tables import USED_CODES
from pmd.services.common.sql import Database


def spend(database: Database, code: str, now: float, ends: float) -> bool:
    """Note that a code is used; False when it was used before.

    Args:
        code: its hash.
        now: Unix seconds; codes that have ended by then are forgotten.
        ends: when the code ends, in Unix seconds.
    """
    try:
        with database.write() as db:
            db.execute(delete(USED_CODES).where(USED_CODES.c.ends <= now))
            db.execute(insert(USED_CODES).values(code=code, ends=ends))
    except IntegrityError:
        return False
    return True
