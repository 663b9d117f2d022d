"""`python -m services.memory --port N`; `python -m services.memory reindex [BANK ..]`."""

import sys

from services.common.serve import serve
from services.memory import reindex
from services.memory.app import create_app
from services.memory.settings import MemoryServiceSettings

if __name__ == "__main__":
    if sys.argv[1:2] == ["reindex"]:
        reindex.main(sys.argv[2:])
    serve("memory", create_app, MemoryServiceSettings())
