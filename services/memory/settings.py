"""Settings of the memory service."""

from __future__ import annotations

from services.common.settings import ServiceSettings


class MemoryServiceSettings(ServiceSettings):
    """Where the ledger lives and who writes reflections."""

    memory_database_url: str = ""
    """SQLAlchemy URL of the ledger; empty means SQLite in the state folder."""
    rollout_url: str = "http://127.0.0.1:8701"
    """The rollout service: its chat completions write insights and behaviors unless a recipe names others."""

    def ledger_url(self) -> str:
        """The ledger's database."""
        return self.memory_database_url or f"sqlite:///{self.service_dir('memory') / 'ledger.db'}"
