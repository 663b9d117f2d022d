"""The prompts that a recipe has unless it names others: for instruct models of any size.

Files beside this one, each a Jinja template; `pmd.services.common.prompts` says what they are given.
"""

from __future__ import annotations

from pathlib import Path

from pmd.services.common.options import PromptFiles

FOLDER = Path(__file__).parent


def read(folder: Path) -> dict[str, str]:
    """The templates in a folder, `<name>.jinja` each, by name.

    Raises:
        OSError, ValueError: one is not there, or is no UTF-8.
    """
    return {name: (folder / f"{name}.jinja").read_text(encoding="utf-8") for name in PromptFiles.model_fields}


INSTRUCT = PromptFiles(**read(FOLDER))
