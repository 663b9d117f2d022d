"""`import`: a run's bank begins with an exported one, of another run and maybe of another model.

Invariants: it is done once, in one transaction; each item says where it was written first; its steps count as over, so
that all that the run itself writes is newer.
"""

from __future__ import annotations

import io

from pmd.services.common.artifacts import read_bytes
from pmd.services.common.jobs import JobContext
from pmd.services.common.requests import Imported, ImportRequest
from pmd.services.memory.curate import portable
from pmd.services.memory.ledger import Ledger, Transaction

ACTOR = "import"


def start(ledger: Ledger, request: ImportRequest, job: JobContext) -> Imported:
    """Fill the bank.

    Raises:
        ArtifactError: when the file is not what was frozen.
        changes.Invalid: naming the line and the field that is wrong.
    """
    file = io.BytesIO(read_bytes(request.file))
    about = portable.survey(file, request.bank)
    job.check()

    def change(tx: Transaction) -> None:
        portable.load_into(tx, file, about, ACTOR)

    counts = ledger.apply(request.bank, job.key, change)
    return Imported(**counts.model_dump(), origin=about.origin, model=about.model)
