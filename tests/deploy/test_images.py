"""Images: what they are made of, by whom they run, and how PyTorch does without the libraries of a GPU."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from pmd.services.common.serve import PORTS
from tests.deploy.charts import ROOT

DOCKER = ROOT / "deploy" / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
STAGES = dict(re.findall(r"^FROM \S+ AS ([\w-]+)$(.*?)(?=^FROM |\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL))
FINAL = {target: lines for target, lines in STAGES.items() if "\nCMD " in lines}


def test_bases_are_arguments_and_none_is_latest() -> None:
    stages = set(re.findall(r"^FROM \S+ AS ([\w-]+)$", DOCKERFILE, re.MULTILINE))
    for base in re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE):
        assert base in stages or base == "${PYTHON_IMAGE}", base
    (default,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", default)
    assert not DOCKERFILE.startswith("# syntax"), "which would fetch a frontend, and builds work without a registry"


def test_nobody_is_root_and_each_image_says_when_it_works() -> None:
    for stage in ("runtime", "runtime-gpu"):
        assert re.findall(r"^USER (\S+)$", STAGES[stage], re.MULTILINE)[-1] == "10001:10001"
    assert set(FINAL) == {"api", "api-gym", "verifier", "rollout-cpu", "rollout-gpu", "trainer-cpu", "trainer-gpu"}
    for target, lines in FINAL.items():
        assert "USER" not in lines, target
        (module,) = re.findall(r'^CMD \["(pmd[\w.]+)"\]$', lines, re.MULTILINE)
        port = PORTS[module.rpartition(".")[2]]
        assert f"EXPOSE {port}\n" in lines, target
        assert re.search(rf'^HEALTHCHECK .* CMD .*"pmd\.services\.common\.health", "{port}"\]$', lines, re.MULTILINE), (
            target
        )


def test_what_is_copied_is_let_in_and_nothing_else_is() -> None:
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = {line[1:] for line in ignore if line.startswith("!")}
    assert "*" in ignore
    copied = {
        word for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE) for word in line.split()[:-1]
    }
    for word in copied:
        assert (ROOT / word).exists(), word
        assert any(word == each or word.startswith(f"{each}/") for each in allowed), word
    assert not {".env", "var", ".git", "tests"} & allowed


def test_a_lock_without_a_gpu_lacks_that_and_nothing_else(tmp_path: Path) -> None:
    lock = ROOT / "requirements" / "images" / "trainer.lock"
    made = subprocess.run(["awk", "-f", DOCKER / "no-gpu.awk", lock], capture_output=True, text=True, check=True).stdout
    names = [set(re.findall(r"^([a-z0-9_-]+)==", text, re.MULTILINE)) for text in (lock.read_text(), made)]
    gone = names[0] - names[1]
    assert gone
    assert all(name.startswith(("nvidia-", "cuda-")) or name == "triton" for name in gone)
    assert "torch" in names[1]
    assert set(made.splitlines()) <= set(lock.read_text().splitlines())


def test_a_trimmed_pyarrow_is_smaller_and_does_what_we_ask_of_it(tmp_path: Path) -> None:
    pyarrow = importlib.util.find_spec("pyarrow")
    assert pyarrow is not None
    assert pyarrow.origin is not None
    whole, part = Path(pyarrow.origin).parent, tmp_path / "pyarrow"
    shutil.copytree(whole, part, copy_function=os.link, ignore=shutil.ignore_patterns("tests"))
    subprocess.run(["sh", DOCKER / "trim.sh", part], check=True)

    def size(folder: Path) -> int:
        return sum(path.stat().st_size for path in folder.rglob("*.so*"))

    assert size(part) < 0.7 * size(whole)
    code = (
        "import pyarrow as pa, pyarrow.compute, pyarrow.dataset, pyarrow.fs, pyarrow.parquet as pq, sys\n"
        "assert pa.__file__.startswith(sys.argv[1])\n"
        "table = pa.table({'a': [1, 2], 'b': [[0.5], None], 'c': ['x', '']})\n"
        "pq.write_table(table, sys.argv[1] + '/t.parquet', compression='zstd')\n"
        "assert pq.read_table(sys.argv[1] + '/t.parquet') == table\n"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True, env=environment)


@pytest.mark.skipif(
    not (shutil.which("cc") and shutil.which("readelf")),
    reason="no C compiler or no binutils; apt-get install gcc binutils runs it",
)
def test_a_library_works_without_those_of_a_gpu(tmp_path: Path) -> None:
    """One that needs versioned and plain names of three absent libraries, as PyTorch's do."""
    lib = tmp_path / "lib"
    absent = tmp_path / "absent"
    lib.mkdir()
    absent.mkdir()

    def build(name: str, code: str, folder: Path, *options: str) -> None:
        source = tmp_path / f"{name}.c"
        source.write_text(code)
        subprocess.run(
            ["cc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", folder / name, source, *options], check=True
        )

    (tmp_path / "runtime").write_text("libcudart.so.13 { global: *; };")
    (tmp_path / "shmem").write_text("NVSHMEM { global: *; };")
    runtime = "int cudaGetDeviceCount(void){return 0;} const char *cudaGetErrorString(int e){return 0;}"
    build("libcudart.so.13", runtime, absent, f"-Wl,--version-script,{tmp_path}/runtime")
    build("libnvshmem_host.so.3", "int nvshmem_init(void){return 0;}", absent, f"-Wl,--version-script,{tmp_path}/shmem")
    build("libnccl.so.2", "int ncclInit(void){return 0;}", absent)
    code = (
        "int cudaGetDeviceCount(void); int nvshmem_init(void); int ncclInit(void); const char *cudaGetErrorString(int);"
        "const char *said(void){return cudaGetErrorString(cudaGetDeviceCount());}"
        "int all(void){return cudaGetDeviceCount() + nvshmem_init() + ncclInit();} int mine(void){return 7;}"
    )
    needed = [absent / name for name in ("libcudart.so.13", "libnvshmem_host.so.3", "libnccl.so.2")]
    build("libtorch_like.so", code, lib, "-Wl,-rpath,$ORIGIN", "-Wl,-z,now", "-Wl,--no-as-needed", *map(str, needed))
    shutil.rmtree(absent)

    def load() -> subprocess.CompletedProcess[str]:
        """In a process of its own: this one may have loaded PyTorch, and NVIDIA's libraries with it."""
        code = "import ctypes, sys; lib = ctypes.CDLL(sys.argv[1]); print(lib.mine(), lib.all());"
        code += "lib.said.restype = ctypes.c_char_p; print(lib.said().decode())"
        command = [sys.executable, "-c", code, str(lib / "libtorch_like.so")]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert "cannot open shared object" in load().stderr
    subprocess.run([sys.executable, DOCKER / "nocuda.py", lib], check=True, capture_output=True)
    # PyTorch makes an exception with what an error is called, which transformers catches in every forward pass.
    assert load().stdout.split("\n") == ["7 300", "this image has no CUDA", ""]


@pytest.mark.parametrize(("status", "well"), [(200, True), (503, False), (None, False)])
def test_the_health_check_asks_whether_the_service_can_work(status: int | None, well: bool) -> None:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/readyz"
            self.send_response(status or 0)
            self.end_headers()
            self.wfile.write(b"no replica is ready")

        def log_message(self, *_: object) -> None:
            pass

    if status is None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
    else:
        server = HTTPServer(("127.0.0.1", 0), Answer)
        port = server.server_port
        threading.Thread(target=server.handle_request, daemon=True).start()
    asked = subprocess.run(
        [sys.executable, "-m", "pmd.services.common.health", str(port)], capture_output=True, text=True, check=False
    )
    assert (asked.returncode == 0) == well
    assert ("no replica is ready" in asked.stderr) == (status == 503)
