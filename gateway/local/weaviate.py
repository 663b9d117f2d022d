"""A Weaviate server for a laptop and for tests: built once by the Go toolchain, started on loopback.

No package registry carries the binary, but the server is an ordinary Go program: `go install` builds it from the
module proxy in about five minutes on two cores, and from Go's cache in seconds after that. The version is pinned.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

VERSION = "1.39.0"
MODULE = "github.com/weaviate/weaviate/cmd/weaviate-server"
TOOLS = Path(__file__).resolve().parents[2] / ".tools" / f"weaviate-{VERSION}"
BINARY = TOOLS / "weaviate-server"
LISTENERS = ("http", "grpc", "gossip", "data", "raft", "raft_rpc")
USER = "pmd"
READY = "/v1/.well-known/ready"
"""Path that answers 200, without a body, once the server can work."""


class CannotBuild(RuntimeError):
    """The server can't be built here; the message says what is missing."""


def build() -> Path:
    """The server's binary, built unless it is there.

    Raises:
        CannotBuild: without a Go toolchain, or when its build fails.
    """
    if BINARY.exists():
        return BINARY
    go = shutil.which("go")
    if go is None:
        raise CannotBuild(
            "no Go toolchain to build Weaviate with; install Go 1.26 or newer, or name a server of your own: "
            "PMD_WEAVIATE_URL, PMD_WEAVIATE_GRPC and PMD_WEAVIATE_API_KEY (tests: WEAVIATE_URL, WEAVIATE_GRPC, "
            "WEAVIATE_API_KEY)"
        )
    TOOLS.mkdir(parents=True, exist_ok=True)
    part = TOOLS / "part"
    environment = {**os.environ, "GOBIN": str(part), "GOFLAGS": "-trimpath"}
    done = subprocess.run([go, "install", f"{MODULE}@v{VERSION}"], env=environment, check=False)
    if done.returncode:
        raise CannotBuild(f"`go install {MODULE}@v{VERSION}` failed; its message is above")
    (part / BINARY.name).replace(BINARY)  # complete or absent
    part.rmdir()
    return BINARY


def argv(ports: Mapping[str, int]) -> tuple[str, ...]:
    """How the built server is started; `ports` has one for each of `LISTENERS`."""
    return (str(BINARY), "--host", "127.0.0.1", "--port", str(ports["http"]), "--scheme", "http")


def environment(data: Path, ports: Mapping[str, int], api_key: str) -> dict[str, str]:
    """Settings of a single node that keeps its data in `data` and lets in who has `api_key`, nobody else."""
    return {
        "PERSISTENCE_DATA_PATH": str(data),
        "AUTHENTICATION_ANONYMOUS_ACCESS_ENABLED": "false",
        "AUTHENTICATION_APIKEY_ENABLED": "true",
        "AUTHENTICATION_APIKEY_ALLOWED_KEYS": api_key,
        "AUTHENTICATION_APIKEY_USERS": USER,
        "AUTHORIZATION_ADMINLIST_ENABLED": "true",
        "AUTHORIZATION_ADMINLIST_USERS": USER,
        "AUTOSCHEMA_ENABLED": "false",
        "DISABLE_TELEMETRY": "true",
        "GRPC_PORT": str(ports["grpc"]),
        "CLUSTER_HOSTNAME": "node1",
        "CLUSTER_IN_LOCALHOST": "true",
        "CLUSTER_GOSSIP_BIND_PORT": str(ports["gossip"]),
        "CLUSTER_DATA_BIND_PORT": str(ports["data"]),
        "RAFT_BOOTSTRAP_EXPECT": "1",
        "RAFT_PORT": str(ports["raft"]),
        "RAFT_INTERNAL_RPC_PORT": str(ports["raft_rpc"]),
        "GO_PROFILING_DISABLE": "true",
        "LOG_LEVEL": "warning",
    }


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{build()}\n")
    except CannotBuild as error:
        sys.exit(str(error))
