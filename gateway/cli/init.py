"""`pmd init`: a recipe and example problems to begin a task of one's own with."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

import pmd
from pmd.gateway.cli.client import CliError
from pmd.gateway.cli.output import console

EXAMPLE = Path(pmd.__file__).parent / "recipes" / "example"
MODEL = "models/smollm2"

README = """# {name}

`recipe.yaml` says what is trained, on what and how; `problems.jsonl` has the questions, one a line, and how each answer
is judged. Both are examples: signs on doors, whose style depends on the kind of room. Edit three things:

1. `problems.jsonl`: your questions, some of split `train` and others of split `test`. A model can learn what it gets
   right now and then: let 2 to 40 of 100 answers pass before training. Turns before the question show a small model
   what an answer looks like.
2. `recipe.yaml`: `model`, and `schedule.problems_per_step` (at most as many as there are of split `train`).
3. `recipe.yaml`: `sampling.max_tokens`, in both places, as long as an answer may be.

A handful of problems teaches nothing that can be seen: have some dozens to train on, and ten or more of split `test`.

Then, in this folder:

```
pmd model smollm2 --to {model}    # once: a small model, no hub needed; not for a model of your own
pmd runs create recipe.yaml --dry-run
pmd up
pmd runs create recipe.yaml --watch     # says the run's name, RUN below; Ctrl-C leaves it running
pmd runs report RUN                     # did it learn? accuracy before and after, and how sure that is
pmd memory list RUN
pmd memory explain RUN 2:PROBLEM#0      # what the teacher of step 2 was shown
pmd export RUN --to ./trained
pmd down
```

The first step learns nothing where the teacher is shown only what earlier steps wrote. If `lead` (the teacher's pass
rate minus the student's) stays at or below 0, memory does not help: contexts show the wrong problems' answers, or none.
Look at a few, and set `retrieval.min_similarity` between the likeness of problems of one kind and of different kinds.

Editors that know `# yaml-language-server` check the recipe against `recipe.schema.json` as you type.
"""


def init(
    folder: Annotated[Path, typer.Argument(help="Where to write; made if it is not there.")] = Path(),
    model: Annotated[str, typer.Option(help="Folder of the base model.")] = MODEL,
) -> None:
    """Write a recipe and example problems for a task of your own."""
    from pmd.gateway.recipes.schema import FILE, LINE, text  # noqa: PLC0415 - loads pydantic models

    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).strip("-._") or "my-task"
    shown = model if "://" in model or Path(model).is_absolute() else os.path.relpath(model, folder)
    recipe = (EXAMPLE / "recipe.yaml").read_text(encoding="utf-8")
    for key, line in ((LINE, LINE + FILE), ("name: ", f"name: {name}"), ("model: ", f"model: {shown}")):
        recipe = "\n".join(line if old.startswith(key) else old for old in recipe.split("\n"))
    files = {
        "recipe.yaml": recipe,
        "problems.jsonl": (EXAMPLE / "problems.jsonl").read_text(encoding="utf-8"),
        FILE: text(),
        "README.md": README.format(name=name, model=shown),
    }
    if there := [file for file in files if (folder / file).exists()]:
        raise CliError(f"{folder / there[0]} is there already; name another folder, nothing was written")
    for file, content in files.items():
        (folder / file).write_text(content, encoding="utf-8")
        console.print(f"wrote {escape(str(folder / file))}", soft_wrap=True)
    command = f"pmd runs create {folder / 'recipe.yaml'} --dry-run"
    console.print(f"Edit them, then try [bold]{escape(command)}[/]; README.md says the rest", soft_wrap=True)
