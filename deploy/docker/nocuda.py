"""Libraries that stand where PyTorch expects NVIDIA's, for images without a GPU: `nocuda.py TORCH_LIB`.

PyTorch's wheel for Linux can't be imported without the CUDA libraries, gigabytes that no code path on a CPU calls. A
wheel without them is on another index than the lock's. So images for CPUs take the lock's wheel, and in place of those
libraries one small file each: it has the names that PyTorch's own libraries want, and every function returns 100,
which is `cudaErrorNoDevice` for the runtime and an error for all others, or, where it says what an error means, a
sentence. What computes on a CPU is the same file as on
a laptop, byte for byte, and so are its results.

Needs readelf and a C compiler (binutils, gcc), at build time only.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

NVIDIA = re.compile(r"lib(?:cu(?!da\.)[a-zA-Z]+|nccl|nvrtc|nvshmem_host|nvJitLink)\.so\.\d+")
"""Names of the libraries that are replaced. The driver, libcuda, is not: PyTorch looks for it when it is asked to."""
UNVERSIONED = re.compile(r"(?:__)?(?:cu[A-Za-z]|nccl|nvrtc|nvshmem|nvJitLink)\w*")
"""NVIDIA's names, of those that carry no version."""
SAYS = re.compile(r"(?!cuGet).*Get(?:Error|Status)(?:String|Name)|ncclGetLastError")
"""Functions that return text: PyTorch asks them about each 100 that it gets. The driver's take a place for it."""
SYMBOL = re.compile(r" (NOTYPE|FUNC|OBJECT|TLS) +(?:GLOBAL|WEAK) +DEFAULT +(UND|\d+) ([\w$.]+)(?:@@?(\S+))?")
TEXT = "this image has no CUDA"
NEEDED = re.compile(r"\(NEEDED\).*\[(.+)\]")
FILE_OR_VERSION = re.compile(r"File: (\S+)|Name: (\S+) +Flags")


def readelf(option: str, path: Path) -> str:
    """What readelf says of a file."""
    return subprocess.run(["readelf", "-W", option, str(path)], capture_output=True, text=True, check=True).stdout


def versions(path: Path) -> dict[str, str]:
    """The library that each version of a name comes from."""
    found, file = {}, ""
    for name, version in FILE_OR_VERSION.findall(readelf("-V", path)):
        file = name or file
        if version:
            found[version] = file
    return found


def main(lib: Path) -> None:
    """Write a stand-in beside the libraries in `lib` for each of NVIDIA's that they need.

    Raises:
        SystemExit: what is wanted is no function.
    """
    names: defaultdict[str, defaultdict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    loose: set[str] = set()
    defined: set[str] = set()
    for path in sorted(lib.glob("*.so*")):
        for name in NEEDED.findall(readelf("-d", path)):
            if NVIDIA.fullmatch(name):
                names[name]
        origin = versions(path)
        for kind, at, name, version in SYMBOL.findall(readelf("--dyn-syms", path)):
            if at != "UND":
                defined.add(name)
            elif NVIDIA.fullmatch(origin.get(version, "")):
                if kind in {"OBJECT", "TLS"}:
                    sys.exit(f"{path.name} wants {name}, which is data; nothing can stand in for it")
                names[origin[version]][version].add(name)
            elif not version and UNVERSIONED.fullmatch(name):
                loose.add(name)
    # A name without a version is found in any library; the runtime's is always loaded.
    runtime = next(name for name in names if name.startswith("libcudart"))
    names[runtime][runtime] |= loose - defined
    for library, by_version in sorted(names.items()):
        stand_in(lib / library, by_version)
        sys.stdout.write(f"{library}: {sum(map(len, by_version.values()))} names\n")


def stand_in(path: Path, by_version: dict[str, set[str]]) -> None:
    """One shared library, with functions of these names."""
    wanted = sorted({name for names in by_version.values() for name in names})
    source = "\n".join(
        f'{kind} f{n}(void) __asm__("{name}"); {kind} f{n}(void) {{ return {value}; }}'
        for n, name in enumerate(wanted)
        for kind, value in [("const char *", f'"{TEXT}"') if SAYS.fullmatch(name) else ("int", "100")]
    )
    script = "\n".join(
        f"{version} {{ global: {' '.join(f'{name};' for name in sorted(names))} }};"
        for version, names in by_version.items()
    )
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "stand-in.c").write_text(source or "typedef int nothing;", encoding="ascii")
        Path(folder, "versions").write_text(script or "{ local: *; };", encoding="ascii")
        linker = f"-Wl,-soname,{path.name},--version-script,{folder}/versions"
        flags = ("-shared", "-fPIC", "-Os", "-s", "-nostdlib", linker)
        subprocess.run(["cc", *flags, "-o", str(path), f"{folder}/stand-in.c"], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
