"""Settings from the environment, one class per service, prefix `PMD_`; any of them may be a file instead.

A `PMD_` variable or file that no service knows is an error that names the nearest valid one (Law 11): a typo in a
deployment file must not be a silent default. So is a setting that is given in both ways.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings import SettingsError as PydanticSettingsError

from pmd.services.common.strict import explain, nearest
from pmd.services.common.tokens import Tokens, lines

PREFIX = "PMD_"
SECRETS_DIR = "PMD_SECRETS_DIR"


class SettingsError(ValueError):
    """The environment holds a variable that nothing reads, or lacks one, or one is wrong: a sentence says which."""


class ServiceSettings(BaseSettings):
    """What every service needs to start."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", use_attribute_docstrings=True)

    secrets_dir: Path | None = None
    """Folder of settings in files, each named as its variable (`PMD_TOKEN`): for secrets, which whoever may look at a
    process or a pod reads in its environment. They are read at the start, but for the token, whose file is read anew
    when it changes."""
    token: SecretStr
    """Bearer token that every request must carry; the launcher generates one. Several, one a line, are all accepted,
    and the first is sent: so it is rotated (docs/deploy.md)."""
    host: str = "127.0.0.1"
    """Address to listen on; loopback unless a proxy or a NetworkPolicy stands in front."""
    state_dir: Path = Path("var")
    """Folder for what a service must remember over a restart (its jobs, its ledger)."""
    data_uri: str = ""
    """Where runs and their artifacts live; empty means `<state_dir>/runs`."""

    @field_validator("token")
    @classmethod
    def _tokens(cls, token: SecretStr) -> SecretStr:
        lines(token.get_secret_value())
        return token

    def tokens(self) -> Tokens:
        """The tokens in force, by the file that they are in where there is one."""
        name = f"{PREFIX}TOKEN"
        files = self.secrets_dir.iterdir() if self.secrets_dir is not None else ()
        file = next((path for path in files if path.name.upper() == name), None)
        return Tokens(self.token.get_secret_value(), file)

    def service_dir(self, service: str) -> Path:
        """The service's own folder below `state_dir`, created."""
        path = self.state_dir.absolute() / service
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path

    def runs_uri(self) -> str:
        """Base URI of the artifacts of all runs."""
        return self.data_uri or f"file://{self.state_dir.absolute() / 'runs'}"


class WorkerSettings(ServiceSettings):
    """What a service needs that works on jobs."""

    jobs_url: str = ""
    """SQLAlchemy URL of the jobs, on Postgres, for a service that has several replicas or no disk of its own: a job of
    a replica that is gone is done by another. Empty means SQLite in the state folder, for one process."""

    def jobs_database(self, service: str, file: str = "jobs.sqlite") -> str:
        """URL of the service's jobs.

        Args:
            file: name of the SQLite file.
        """
        return self.jobs_url or f"sqlite:///{self.service_dir(service) / file}"


def check_environment(settings: type[ServiceSettings]) -> None:
    """Refuse `PMD_` variables and files that `settings` does not read: a service is given its own settings and no
    other's.

    Raises:
        SettingsError: naming the variable and the nearest valid one, or the one that is given twice.
    """
    valid = sorted(PREFIX + name.upper() for name in settings.model_fields)
    files = _in_files()
    for name in (*os.environ, *files):
        if name.startswith(PREFIX) and name.upper() not in valid:
            guess = nearest(name.upper(), valid)
            hint = f"; did you mean {guess}?" if guess else f"; valid are {', '.join(valid)}"
            raise SettingsError(f"unknown setting {name}{hint}")
    for name in files:
        if name in os.environ:
            raise SettingsError(f"{name} is set in the environment and in {SECRETS_DIR}; unset one")


def _in_files() -> list[str]:
    """Names of the settings that are files.

    Raises:
        SettingsError: there is no such folder.
    """
    folder = os.environ.get(SECRETS_DIR)
    try:
        return sorted(path.name for path in Path(folder).iterdir() if path.name.startswith(PREFIX)) if folder else []
    except OSError as error:
        raise SettingsError(f"{SECRETS_DIR}: {folder} can't be read: {error.strerror}") from None


def given() -> dict[str, str]:
    """The environment with the settings that are files: for a program that is no service and reads a few of them.

    Raises:
        SettingsError: there is no such folder.
    """
    folder = os.environ.get(SECRETS_DIR, "")
    return {**os.environ, **{name: (Path(folder) / name).read_text(encoding="utf-8").strip() for name in _in_files()}}


S = TypeVar("S", bound=ServiceSettings)


def load_settings(settings: type[S]) -> S:
    """The settings that the environment and files hold.

    Raises:
        SettingsError: naming each variable that is unknown, missing or wrong. It shows no value: one may be a secret.
    """
    check_environment(settings)
    try:
        return settings(_secrets_dir=os.environ.get(SECRETS_DIR))
    except ValidationError as error:
        wrong = [
            f"{PREFIX}{each['field'].upper()}: {each['message']}" if each["field"] else each["message"]
            for each in explain(error)
        ]
        raise SettingsError("\n".join(wrong)) from None
    except PydanticSettingsError as error:
        field = str(error).partition('"')[2].partition('"')[0]
        raise SettingsError(f"{PREFIX}{field.upper()}: no JSON, as which lists are written") from None


def check_all(environments: Mapping[str, Mapping[str, str]]) -> list[str]:
    """What is wrong with settings, by `module:class` and the environment that its process would have.

    In this process, whose environment is replaced: for one that does nothing else.
    """
    wrong = []
    for name, environment in environments.items():
        module, _, kind = name.partition(":")
        os.environ.clear()
        os.environ.update(environment)
        try:
            load_settings(getattr(importlib.import_module(module), kind))
        except SettingsError as error:
            wrong += str(error).splitlines()
    return wrong


if __name__ == "__main__":  # `pmd up`, which must not import a service, asks so before it starts anything
    print("\n".join(dict.fromkeys(check_all(json.load(sys.stdin)))), end="")
