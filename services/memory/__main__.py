"""`python -m pmd.services.memory --port N`; `python -m pmd.services.memory reindex [BANK ..]`."""

import sys

from pmd.services.common.serve import serve
from pmd.services.memory.app import create_app
from pmd.services.memory.index import reindex
from pmd.services.memory.settings import MemoryServiceSettings

if __name__ == "__main__":
    if sys.argv[1:2] == ["reindex"]:
        reindex.main(sys.argv[2:])
    serve("memory", create_app, MemoryServiceSettings)
