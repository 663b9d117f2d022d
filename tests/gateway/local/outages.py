"""Real outages of a real installation: what a run needs is taken away while it works, and given back.

As a program: `python -m tests.gateway.local.outages --state-dir DIR --part rollout --seconds 120` takes a part away in
each phase of a step, and says what the run said and whether it ended as a run that nobody disturbed. Part `disk`
fills the disk of DIR, which must be a small one: `mount -t tmpfs -o size=3g none DIR`.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import shutil
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil

from pmd.gateway.local import launcher
from pmd.gateway.local.supervisor import read_state
from pmd.gateway.loop.state import PhaseName
from pmd.gateway.recipes.files import load_recipe
from pmd.gateway.registry.registry import Registry
from pmd.gateway.registry.schema import REGISTRY
from pmd.services.memory.index.embed import HashEmbedder
from tests.reaped import reaped

RECIPE = Path(__file__).parents[3] / "recipes" / "pocket-choice.yaml"
PHASES = tuple(name for name in PhaseName if name is not PhaseName.EVALUATE_RETRIEVE)
"""In the order of a step."""
PROGRAMS = ("rollout", "verifier", "memory", "trainer", "redis")
PARTS = (*PROGRAMS, "embedder", "generator")
DISK = "disk"
SMALL_DISK = 8 << 30
"""Bytes; a larger one is not filled."""
P = PhaseName
NEEDED = {
    "rollout": (P.ROLLOUT, P.REFLECT, P.ABSTRACT, P.PROBE, P.PUBLISH, P.EVALUATE),
    "verifier": (P.VERIFY, P.PROBE_VERIFY, P.EVALUATE_VERIFY),
    "memory": (P.RECORD, P.REFLECT, P.ABSTRACT, P.RETRIEVE),
    "trainer": (P.TRAIN,),
    "redis": PHASES,
    "embedder": (P.ABSTRACT, P.RETRIEVE),
    "generator": (P.REFLECT, P.ABSTRACT),
    DISK: PHASES,
}
"""Phases that can't end without a part."""
MODES = ("hung", "dead", "starting")
"""hung: takes connections and answers nothing. dead: refuses them, and what it held in memory is gone. starting (of
what is no part of the installation): answers 503."""
SMALL = {
    "problems": {"world": "easy", "train": 72, "test": 4, "unseen": 4},
    "schedule": {"problems_per_step": 6, "rollouts_per_problem": 4},
    "sampling": {"max_tokens": 48},
    "memory": {"abstract": {"clustering": "embeddings", "min_support": 2, "distance": 2.0, "every": 1, "warmup": 0}},
    "retrieval": {"by_meaning": ["insight", "behavior"]},
    "evaluation": {"every": 1, "samples": 1, "sampling": {"max_tokens": 48}},
    "alarms": {"no_pass_steps": None, "idle_steps": None},
}
"""Every step has every phase, and needs every part."""
POLL_S = 0.02
LOOK_S = 0.25
PATIENCE_S = 900.0


class Edge(ABC):
    """A server outside the installation, on loopback, that can be hung, dead or starting."""

    def __init__(self) -> None:
        self.mode = ""
        self.going = threading.Event()
        self.going.set()
        self.server = self._listen(0)
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}/v1"

    @abstractmethod
    def answer(self, body: dict[str, Any]) -> tuple[int, Any]:
        """Status and body for a request."""

    def _listen(self, port: int) -> ThreadingHTTPServer:
        edge = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                edge.going.wait()
                self._say(503 if edge.mode == "starting" else 200, {"data": []})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                edge.going.wait()
                self._say(*((503, {}) if edge.mode == "starting" else edge.answer(body)))

            def _say(self, status: int, answer: Any) -> None:
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                with suppress(BrokenPipeError):  # who asked has given up meanwhile
                    self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server

    def take(self, mode: str) -> None:
        """Go away."""
        self.mode = mode
        if mode == "hung":
            self.going.clear()
        if mode == "dead":
            self.close()

    def give(self) -> None:
        """Come back."""
        if self.mode == "dead":
            self.server = self._listen(self.port)
        self.mode = ""
        self.going.set()

    def close(self) -> None:
        """Refuse connections."""
        self.server.shutdown()
        self.server.server_close()


class EmbeddingServer(Edge):
    """`POST /v1/embeddings` over the embedder that needs no weights."""

    def answer(self, body: dict[str, Any]) -> tuple[int, Any]:
        rows = HashEmbedder().embed(body["input"])
        return 200, {"data": [{"index": i, "embedding": row.tolist()} for i, row in enumerate(rows)]}


class NoteWriter(Edge):
    """`POST /v1/chat/completions` by the base model of a run, one at a time: answers do not depend on the order."""

    def __init__(self) -> None:
        self.base = ""
        """URL of the rollout service."""
        self.token = ""
        self.model = ""
        self._turn = threading.Lock()
        super().__init__()

    def answer(self, body: dict[str, Any]) -> tuple[int, Any]:
        asked = {key: value for key, value in body.items() if key != "metadata"} | {"model": self.model}
        headers = {"Authorization": f"Bearer {self.token}"}
        try:
            with self._turn:
                url = f"{self.base}/v1/chat/completions"
                answer = httpx.post(url, json=asked, headers=headers, timeout=600, trust_env=False)
        except httpx.TransportError:
            return 502, {}
        return answer.status_code, answer.json()


@dataclass(frozen=True)
class Outage:
    """What is taken away, when, how and for how long."""

    step: int
    phase: PhaseName
    parts: tuple[str, ...]
    mode: str
    seconds: float

    @property
    def needed(self) -> bool:
        """Whether the phase can't end without one of the parts."""
        return any(self.phase in NEEDED[part] for part in self.parts)


@dataclass
class Seen:
    """What a run said during an outage."""

    outage: Outage
    reasons: dict[str, float] = field(default_factory=dict)
    """Seconds from its begin, by reason."""
    named: float | None = None
    """Seconds until a reason named one of the parts; None when none did."""
    still: str = ""
    """The phase in which the run stood in the end."""


class Installation:
    """`pmd up` in a state folder, and the servers at its edge."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.ballast = state_dir / "ballast"
        self.embedder, self.generator = EmbeddingServer(), NoteWriter()
        settings = {
            "PMD_STATE_DIR": str(state_dir),
            "PMD_MEMORY_EMBEDDER": "openai",
            "PMD_MEMORY_EMBEDDER_URL": self.embedder.url,
            "PMD_MEMORY_EMBEDDER_MODEL": "hash",
            "PMD_ALLOWED_URLS": self.generator.url,
        }
        with _environment(settings):
            launcher.start_detached(state_dir)
        state = self._state()
        self._reaped = reaped(state["pid"])
        self._reaped.__enter__()
        list(launcher.wait_ready(state_dir))
        self.token = (state_dir / "token").read_text().strip()
        headers = {"Authorization": f"Bearer {self.token}"}
        self.http = httpx.Client(base_url=state["url"], headers=headers, timeout=60, trust_env=False)
        self.urls = {name: service["url"] for name, service in state["services"].items()}
        self.generator.base, self.generator.token = self.urls["rollout"], self.token
        self.registry = Registry(REGISTRY.open(f"sqlite:///{state_dir / 'gateway' / 'registry.db'}"))
        self._stopped: list[psutil.Process] = []

    def close(self) -> None:
        """End all of it."""
        self.give(PARTS)
        launcher.stop(self.state_dir)
        self._reaped.__exit__(None, None, None)
        self.embedder.close()
        self.generator.close()

    def _state(self) -> dict[str, Any]:
        state = read_state(self.state_dir)
        assert state is not None, "the supervisor has ended"
        return state

    def take(self, parts: Sequence[str], mode: str) -> None:
        """Take parts away, when all of them are there."""
        deadline = time.monotonic() + PATIENCE_S
        while any(self._state()["services"][part]["pid"] is None for part in parts if part in PROGRAMS):
            assert time.monotonic() < deadline, f"one of {parts} is not started again"
            time.sleep(POLL_S)
        state = self._state()
        trees = [_tree(state["services"][part]["pid"]) for part in parts if part in PROGRAMS]
        programs = list(itertools.chain.from_iterable(trees))
        if mode == "dead" and programs:
            self._stop([psutil.Process(state["pid"])])  # else it starts them again at once
            for process in programs:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        else:
            self._stop(programs)
        for edge in self._edges(parts):
            edge.take(mode)
        if DISK in parts:
            self._fill()

    def give(self, parts: Sequence[str]) -> None:
        """Give them back."""
        for process in self._stopped:
            with suppress(psutil.NoSuchProcess):
                process.resume()
        self._stopped = []
        for edge in self._edges(parts):
            edge.give()
        self.ballast.unlink(missing_ok=True)

    def _fill(self) -> None:
        assert shutil.disk_usage(self.state_dir).total <= SMALL_DISK, f"{self.state_dir} is on no disk to be filled"
        with self.ballast.open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):  # to the last byte
                with suppress(OSError):
                    while file.write(bytes(size)):
                        pass

    def _stop(self, processes: list[psutil.Process]) -> None:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        self._stopped += processes

    def _edges(self, parts: Sequence[str]) -> list[Edge]:
        edges: dict[str, Edge] = {"embedder": self.embedder, "generator": self.generator}
        return [edge for part, edge in edges.items() if part in parts]

    def marks(self, parts: Sequence[str]) -> list[str]:
        """What a reason says that names one of `parts`."""
        urls = {"embedder": self.embedder.url, "generator": self.generator.url, "redis": "broker", DISK: "GiB free"}
        return [urls.get(part) or self.urls[part] for part in parts]

    def create(self, name: str, steps: int, *, external: bool) -> str:
        """Start a run of the small recipe; `external`: its notes are written at the edge."""
        over = json.loads(json.dumps(SMALL)) | {"name": name}
        over["schedule"]["steps"] = steps
        if external:
            over["generator"] = {"model": "writer", "base_url": self.generator.url}
        answer = self.http.post("/v1/runs", json={"recipe": load_recipe(RECIPE, over)})
        assert answer.status_code == 201, answer.text
        run: str = answer.json()["id"]
        self.generator.model = f"{run}@0"
        return run

    def play(self, run: str, outages: Sequence[Outage]) -> Iterator[Seen]:
        """Follow a run to its end, with the outages on its way, but those that it has left behind in an earlier one."""
        for outage in outages:
            self._await(run, outage)
            if self._goes_on(run):
                yield self._strike(run, outage)
        deadline = time.monotonic() + PATIENCE_S
        while self._goes_on(run):
            assert time.monotonic() < deadline, f"{run} does not end: {self.http.get(f'/v1/runs/{run}').text}"
            time.sleep(LOOK_S)

    def _goes_on(self, run: str) -> bool:
        return self.http.get(f"/v1/runs/{run}").json()["status"] in {"queued", "running"}

    def _await(self, run: str, outage: Outage) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not any((r["step"], r["name"]) == (outage.step, outage.phase) for r in self.registry.phases(run)):
            view = self.http.get(f"/v1/runs/{run}").json() if time.monotonic() > deadline else None
            assert view is None, f"{run} does not come to {outage}: {view}"
            time.sleep(POLL_S)

    def _strike(self, run: str, outage: Outage) -> Seen:
        seen, marks = Seen(outage), self.marks(outage.parts)
        began = time.monotonic()
        self.take(outage.parts, outage.mode)
        try:
            while (now := time.monotonic() - began) < outage.seconds:
                view = self.http.get(f"/v1/runs/{run}").json()
                for reason in filter(None, (view["waiting"], *view["warnings"])):
                    seen.reasons.setdefault(reason, round(now, 1))
                    if seen.named is None and any(mark in reason for mark in marks):
                        seen.named = round(now, 1)
                time.sleep(LOOK_S)
            seen.still = self.registry.phases(run)[-1]["name"]
        finally:
            self.give(outage.parts)
        return seen

    def weights(self, run: str) -> list[str]:
        """Hashes of all weights that a run has trained, in order."""
        trained = [json.loads(row["result"]) for row in self.registry.phases(run) if row["name"] == P.TRAIN]
        folders = [Path(result["weights"]["uri"].removeprefix("file://")) for result in trained]
        return [hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() for folder in folders]

    def faults(self, run: str, undisturbed: str) -> list[str]:
        """What differs from a run that nobody disturbed."""
        found = []
        view = self.http.get(f"/v1/runs/{run}").json()
        if view["status"] != "succeeded":
            found.append(f"ended {view['status']}: {view['error']}")
        if view["waiting"]:
            found.append(f"waits after its end: {view['waiting']}")
        if again := [f"{r['step']}.{r['name']}.{r['attempt']}" for r in self.registry.phases(run) if r["attempt"] > 1]:
            found.append(f"tried again: {again}")
        if failed := [e.payload for e in self.registry.events(run, limit=100_000) if e.type == "phase.failed"]:
            found.append(f"failed: {failed}")
        mine, theirs = self.weights(run), self.weights(undisturbed)
        if mine != theirs:
            first = next((i for i, pair in enumerate(zip(mine, theirs, strict=False)) if len({*pair}) > 1), "none")
            found.append(f"weights differ; first at {first} of {len(mine)}/{len(theirs)}")
        return found


def _tree(pid: int) -> list[psutil.Process]:
    """A program with all that it has started, also in groups of their own."""
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    return []


@contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    old = {name: os.environ.get(name) for name in settings}
    os.environ |= settings
    try:
        yield
    finally:
        for name, value in old.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def in_each_phase(parts: tuple[str, ...], modes: Sequence[str], seconds: float, short: float) -> list[Outage]:
    """One outage a step, in each phase in turn; `short` where the phase needs none of the parts."""
    found = []
    for step, (phase, mode) in enumerate(zip(PHASES, itertools.cycle(modes)), start=1):
        outage = Outage(step, phase, parts, mode, seconds)
        found.append(outage if outage.needed else Outage(step, phase, parts, mode, short))
    return found


def main() -> None:
    """The drill."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--part", choices=(*PARTS, DISK, "all"), action="append", required=True)
    parser.add_argument("--mode", choices=MODES, action="append")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--short", type=float, default=30.0, help="seconds in phases that do not need the part")
    given = parser.parse_args()
    installation = Installation(given.state_dir.absolute())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        disturbed, steps = {}, len(PHASES)
        # What one run has embedded no other asks for: the embedder is missed by the first alone.
        for part in sorted(given.part, key=lambda part: part not in {"embedder", "all"}):
            parts = PARTS if part == "all" else (part,)
            run = installation.create(part, steps, external="generator" in parts)
            disturbed[part] = run, "generator" in parts
            outages = in_each_phase(parts, given.mode or ("hung", "dead"), given.seconds, given.short)
            for seen in installation.play(run, outages):
                o = seen.outage
                said = "; ".join(f"{at} s: {reason}" for reason, at in seen.reasons.items())
                named = "-" if seen.named is None else f"{seen.named} s"
                print(
                    f"{time.strftime('%H:%M:%S')} {part:9} {o.phase:15} {o.mode:5} {o.seconds:4.0f} s "
                    f"{'needed' if o.needed else 'other':6} named after {named:7} stands in {seen.still} | {said}",
                    flush=True,
                )
        calm = {}
        for part, (run, external) in disturbed.items():
            if external not in calm:
                calm[external] = installation.create("calm", steps, external=external)
                list(installation.play(calm[external], []))
                print(f"undisturbed: {installation.faults(calm[external], calm[external]) or 'ended'}", flush=True)
            print(f"{part}: {installation.faults(run, calm[external]) or 'as undisturbed'}", flush=True)
    finally:
        installation.close()


if __name__ == "__main__":
    main()
