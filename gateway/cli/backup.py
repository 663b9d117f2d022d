"""`pmd backup DIR`, `pmd restore DIR`: an installation of one moment, kept and put back.

In a container addresses with passwords are files, as for a service (`PMD_SECRETS_DIR`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pmd.gateway.cli.client import CliError
from pmd.gateway.cli.output import console
from pmd.gateway.cli.up import StateDir
from pmd.services.common.settings import SettingsError, given


def backup(
    to: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to make; it must not be there.")],
    state_dir: StateDir,
) -> None:
    """Copy runs, memory, artifacts and training state of this moment to DIR, while runs go on."""
    # Here, as they load SQLAlchemy, which other commands do not.
    from pmd.gateway.local import backup as backups  # noqa: PLC0415
    from pmd.gateway.local.dumps import BackupError  # noqa: PLC0415

    try:
        made = backups.backup(backups.Places.of(state_dir.absolute(), given()), to.absolute())
    except (BackupError, SettingsError) as error:
        raise CliError(str(error)) from error
    held = f"nothing could begin for {made['held_ms']} ms"
    console.print(f"{to}: {made['files']} files, {made['bytes'] / 2**20:.1f} MiB; {held}", soft_wrap=True)


def restore(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="What `pmd backup` made.")],
    state_dir: StateDir,
) -> None:
    """Make an installation of the backup in DIR, where there is none. `pmd up` then goes on with its runs."""
    # Here, as they load SQLAlchemy, which other commands do not.
    from pmd.gateway.local import backup as backups  # noqa: PLC0415
    from pmd.gateway.local.dumps import BackupError  # noqa: PLC0415

    try:
        made = backups.restore(backups.Places.of(state_dir.absolute(), given()), source.absolute())
    except (BackupError, SettingsError) as error:
        raise CliError(str(error)) from error
    console.print(f"{made['files']} files restored to {state_dir}; `pmd up` goes on with the runs", soft_wrap=True)
