#!/usr/bin/env python3
"""Makes shared libraries that stand in for NVIDIA's, beside those of a PyTorch built with CUDA, so that it can be
imported on a machine without them: every function answers "no device", as NVIDIA's do where there is none, and
PyTorch computes on the CPU.

PyTorch's own libraries say what they need; nothing is listed here. usage: cuda_stubs.py VENV
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

NO_DEVICE = 100  # cudaErrorNoDevice
TEXT = r"(?i)error_?(string|name)$"  # functions that return a text
LIBRARY = r"\(NEEDED\).*\[(lib(?:cu|nv|nccl).*)\]"
FUNCTION = r"cu|nccl|nvshmem"  # those without a version; any library may have them that all others need:
COMMON = "libcudart.so"
VERSIONS = {"NVSHMEM": "libnvshmem_host.so"}  # a version is its library's name, but for this one


def readelf(option, path):
    return subprocess.run(["readelf", "-W", option, path], capture_output=True, text=True, check=True).stdout


def wanted(libraries):
    """{library: {version: functions}} that `libraries` need of NVIDIA's; version "" where there is none."""
    needed, undefined, defined = set(), set(), set()
    for library in libraries:
        needed.update(re.findall(LIBRARY, readelf("-d", library)))
        for fields in map(str.split, readelf("--dyn-syms", library).splitlines()):
            if len(fields) >= 8:
                (undefined if fields[6] == "UND" else defined).add(fields[7])
    stubs = {name: {} for name in needed - {library.name for library in libraries}}
    for symbol in sorted(undefined - defined):
        function, _, version = symbol.partition("@")
        home = VERSIONS.get(version, version) if version else COMMON
        if version or re.match(FUNCTION, function):
            for name in (name for name in stubs if name.startswith(home)):
                stubs[name].setdefault(version, []).append(function)
    return stubs


def make(path, versions):
    functions = sum(versions.values(), [])
    with tempfile.TemporaryDirectory() as folder:
        source, script = Path(folder, "stub.c"), Path(folder, "stub.map")
        answer = {True: '(long)"no CUDA here"', False: str(NO_DEVICE)}
        lines = (f"long {name}(void) {{ return {answer[bool(re.search(TEXT, name))]}; }}\n" for name in functions)
        source.write_text("".join(lines))
        nodes = [f"{version} {{ {'; '.join(names)}; }};\n" for version, names in versions.items() if version]
        script.write_text("".join(nodes))
        command = ["gcc", "-shared", "-fPIC", "-O1", "-w", f"-Wl,-soname,{path.name}", source, "-o", path]
        subprocess.run(command + ([f"-Wl,--version-script={script}"] if nodes else []), check=True)


def main(venv):
    for folder in Path(venv).glob("lib/python3*/site-packages/torch/lib"):
        for name, versions in wanted([path for path in folder.glob("*.so*") if path.is_file()]).items():
            make(folder / name, versions)


if __name__ == "__main__":
    main(sys.argv[1])
