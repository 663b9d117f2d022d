"""Settings from the environment, one class per service, prefix `PMD_`.

A `PMD_` variable that no service knows is an error that names the nearest valid one (Law 11): a typo in a
deployment file must not be a silent default.
"""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from pmd.services.common.strict import nearest

PREFIX = "PMD_"
TOKEN_CHARS = 16
"""Shortest token."""


class SettingsError(ValueError):
    """The environment holds a variable that nothing reads."""


class ServiceSettings(BaseSettings):
    """What every service needs to start."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", use_attribute_docstrings=True)

    token: SecretStr = Field(min_length=TOKEN_CHARS)
    """Bearer token that every request must carry; the launcher generates one."""
    host: str = "127.0.0.1"
    """Address to listen on; loopback unless a proxy or a NetworkPolicy stands in front."""
    state_dir: Path = Path("var")
    """Folder for what a service must remember over a restart (its jobs, its ledger)."""
    data_uri: str = ""
    """Where runs and their artifacts live; empty means `<state_dir>/runs`."""

    def service_dir(self, service: str) -> Path:
        """The service's own folder below `state_dir`, created."""
        path = self.state_dir.absolute() / service
        path.mkdir(parents=True, exist_ok=True)
        return path

    def runs_uri(self) -> str:
        """Base URI of the artifacts of all runs."""
        return self.data_uri or f"file://{self.state_dir.absolute() / 'runs'}"


def check_environment(settings: type[ServiceSettings]) -> None:
    """Refuse `PMD_` variables that `settings` does not read: a service is given its own settings and no other's.

    Raises:
        SettingsError: naming the variable and the nearest valid one.
    """
    valid = sorted(PREFIX + name.upper() for name in settings.model_fields)
    for name in os.environ:
        if name.startswith(PREFIX) and name.upper() not in valid:
            guess = nearest(name.upper(), valid)
            hint = f"; did you mean {guess}?" if guess else f"; valid are {', '.join(valid)}"
            raise SettingsError(f"unknown setting {name}{hint}")
