"""`python -m services.memory --port N`."""

from services.common.serve import serve
from services.memory.app import create_app
from services.memory.settings import MemoryServiceSettings

if __name__ == "__main__":
    serve("memory", create_app, MemoryServiceSettings())
