#!/usr/bin/env python3
"""Object files of src/backend/cpu/isa may define weak functions in their own namespace only.

A weak function (inline or a template, but not inlined) exists in many objects and the linker keeps
any one of them. If isa/avx512.cc emitted a common one, the whole program could get its AVX-512 code
and stop on a machine without AVX-512. Weak data is harmless.

usage: check_isa_symbols.py [--nm NM] OBJECT...     objects whose path has no /isa/ are skipped
"""

import re
import subprocess
import sys
from pathlib import Path

WEAK_CODE = "W"  # V and u are data


def foreign_weak_symbols(nm_output, namespace):
    """Weak functions defined there whose demangled name does not hold `namespace`."""
    foreign = []
    for line in nm_output.splitlines():
        match = re.match(r"^[0-9a-fA-F]*\s+(\S)\s+(.*)$", line)
        if match and match.group(1) in WEAK_CODE and f"{namespace}::" not in match.group(2):
            foreign.append(match.group(2))
    return foreign


def namespace_of(path):
    return "herd::cpu::" + Path(path).name.split(".")[0]


def main(arguments):
    nm = "nm"
    if arguments[:1] == ["--nm"]:
        nm, arguments = arguments[1], arguments[2:]
    objects = [path for path in arguments if "/isa/" in path and path.endswith((".o", ".obj"))]
    if not objects:
        print(f"no isa object among {len(arguments)} paths", file=sys.stderr)
        return 2
    broken = 0
    for path in objects:
        listed = subprocess.run([nm, "-C", "--defined-only", path], capture_output=True, text=True, check=True)
        if namespace_of(path) not in listed.stdout:
            print(f"{path}: defines nothing in {namespace_of(path)}: is this the right file?")
            broken += 1
        for symbol in foreign_weak_symbols(listed.stdout, namespace_of(path)):
            print(f"{path}: weak function outside {namespace_of(path)}: {symbol}")
            broken += 1
    print(f"{len(objects)} isa objects, {broken} foreign weak functions")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
