"""Settings of the gateway and its controller."""

from __future__ import annotations

from pydantic import SecretStr

from pmd.services.common.allowed import Allowed
from pmd.services.common.serve import PORTS
from pmd.services.common.settings import ServiceSettings


def _local(service: str) -> str:
    return f"http://127.0.0.1:{PORTS[service]}"


class GatewaySettings(ServiceSettings):
    """Where the registry, the broker and the services are."""

    database_url: str = ""
    """SQLAlchemy URL of the run registry; empty means SQLite in `<state_dir>/gateway`. Use Postgres when the
    gateway or the controller runs on more than one machine."""
    redis_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    """Broker of the controller's wake-ups. It may lose everything at any time."""
    rollout_url: str = _local("rollout")
    """Base URL of the rollout service."""
    verifier_url: str = _local("verifier")
    """Base URL of the verifier service."""
    memory_url: str = _local("memory")
    """Base URL of the memory service."""
    trainer_url: str = _local("trainer")
    """Base URL of the trainer service."""

    allowed_urls: str = ""
    """URLs that a recipe may name, and all below them, separated by commas: endpoints of models that write notes,
    stores of problem files. Give the memory service the same list: it sends its key to no other endpoint."""
    allowed_paths: str = "/"
    """Folders of this machine that a recipe may name its model and problem files in, separated by commas."""

    def allowed(self) -> Allowed:
        """What a recipe may name."""
        return Allowed.of(self.allowed_urls, self.allowed_paths)

    def database(self) -> str:
        """The registry's URL."""
        return self.database_url or f"sqlite:///{self.service_dir('gateway') / 'registry.db'}"

    def service_urls(self) -> dict[str, str]:
        """Base URL by service."""
        return {
            "rollout": self.rollout_url,
            "verifier": self.verifier_url,
            "memory": self.memory_url,
            "trainer": self.trainer_url,
        }
