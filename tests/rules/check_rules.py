#!/usr/bin/env python3
"""The rules of this code base that a compiler does not check. Prints path:line: rule: what is wrong.

usage: check_rules.py [ROOT]     exit 0: all kept, 1: broken, 2: wrong use
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from source_text import functions, without_comments_and_strings

# Rooms of src/, lowest first. A room includes only rooms below it that src/CMakeLists.txt says it
# NEEDS; `core` is plain data without a library, open to every room but base.
ROOMS = [
    "base", "core", "quant", "gguf", "token", "chat", "constrain", "backend", "model", "kv", "sched", "sample", "engine",
]
SHIPPED = ("src/", "include/", "apps/", "python/")
CODE = {".cc", ".h", ".inl", ".cu", ".cuh", ".metal", ".c"}
TEXT = CODE | {".py", ".md", ".txt", ".cmake", ".json", ".jsonl", ".sh", ""}
FILE_LINES = 800
FUNCTION_LINES = 100
KERNEL_LINES = 150  # src/backend/<device>/


@dataclass(frozen=True, order=True)
class Violation:
    path: str
    line: int
    rule: str
    message: str

    def __str__(self):
        return f"{self.path}:{self.line}: {self.rule}: {self.message}"


@dataclass
class Source:
    """One file of the tree, read once."""

    path: str  # relative to the root, with /
    text: str
    code: str  # without comments and strings; of C++ files only

    @property
    def is_code(self):
        return Path(self.path).suffix in CODE

    def under(self, *folders):
        return any(self.path.startswith(folder) for folder in folders)

    def find(self, pattern, text=None):
        """(line number, match) for every match."""
        text = self.code if text is None else text
        for match in re.finditer(pattern, text, re.MULTILINE):
            yield text.count("\n", 0, match.start()) + 1, match


def read_tree(root):
    folders = ["src", "include", "apps", "python", "examples", "bench", "tests", "scripts", "docs", "cmake", ".ci"]
    files = [p for folder in folders for p in sorted((root / folder).rglob("*")) if p.is_file()]
    # In a worktree .git is a file that holds a path of the machine.
    files += [p for p in sorted(root.glob("*")) if p.is_file() and p.name != ".git"]
    sources = []
    for path in files:
        relative = path.relative_to(root).as_posix()
        if relative.startswith("tests/data/") or "__pycache__" in relative or path.suffix not in TEXT:
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # not text
        is_code = path.suffix in CODE
        sources.append(Source(relative, text, without_comments_and_strings(text) if is_code else ""))
    return sources


# ---- includes ----


def room_needs(cmake):
    """room -> rooms it links, from the herd_room(...) lines of src/CMakeLists.txt."""
    needs = {}
    for match in re.finditer(r"^herd_room\((\w+)([^)]*)\)", cmake, re.MULTILINE):
        linked = match.group(2).partition("NEEDS")[2].split()
        needs[match.group(1)] = {name[5:] for name in linked if name.startswith("herd_")}
    return needs


def reachable(needs, room):
    seen, open_rooms = set(), [room]
    while open_rooms:
        for below in needs.get(open_rooms.pop(), ()):
            if below not in seen:
                seen.add(below)
                open_rooms.append(below)
    return seen


def check_room_order(sources):
    path = "src/CMakeLists.txt"
    cmake = next((s.text for s in sources if s.path == path), "")
    for room, linked in room_needs(cmake).items():
        for below in sorted({room} | linked):
            if below not in ROOMS:
                yield Violation(path, 1, "include-dag", f"room {below} is not in the order of rooms")
            elif below != room and room in ROOMS and ROOMS.index(below) >= ROOMS.index(room):
                yield Violation(path, 1, "include-dag", f"room {room} needs {below}, which is not below it")


def includes(source):
    # The blanked code keeps the quotes, so a commented-out include is not seen.
    lines = source.text.split("\n")
    for number, _ in source.find(r'^[ \t]*#[ \t]*include[ \t]*"'):
        match = re.search(r'include\s*"([^"]+)"', lines[number - 1])
        if match:
            yield number, match.group(1)


def allowed_in_src(source, target, needs):
    parts = source.path.split("/")  # src/room[/device]/...
    room, target_parts = parts[1], target.split("/")
    target_room = target_parts[0]
    if target_room == "herd":
        return True
    if target_room == room:
        devices = room == "backend" and len(parts) > 3 and len(target_parts) > 2
        return not devices or target_parts[1] == parts[2]
    if target_room == "core":
        return room != "base"
    return target_room in reachable(needs, room)


def check_includes(sources):
    needs = room_needs(next((s.text for s in sources if s.path == "src/CMakeLists.txt"), ""))
    paths = {s.path for s in sources}
    for source in sources:
        if not source.is_code or not source.under(*SHIPPED, "examples/"):
            continue
        for line, target in includes(source):
            if target.startswith("herd/"):
                continue
            if source.under("src/"):
                ok = allowed_in_src(source, target, needs)
                why = "not this room's own, not one it needs (src/CMakeLists.txt)"
            else:
                beside = f"{Path(source.path).parent.as_posix()}/{target}"
                server = source.under("apps/cli/") and target == "server/server.h"  # herd serve
                ok = source.under("apps/") and (beside in paths or server)
                why = "only include/herd is open here"
            if not ok:
                yield Violation(source.path, line, "include-dag", f'"{target}": {why}')


# ---- sizes ----


def check_sizes(sources):
    for source in sources:
        if not source.is_code and not source.path.endswith(".py"):
            continue
        lines = source.text.count("\n")
        if lines >= FILE_LINES:
            yield Violation(source.path, lines, "file-size", f"{lines} lines, limit {FILE_LINES - 1}")
        if not source.is_code:
            continue
        limit = KERNEL_LINES if re.match(r"src/backend/\w+/", source.path) else FUNCTION_LINES
        for function in functions(source.text):
            if function.lines > limit:
                message = f"{function.name} has {function.lines} lines, limit {limit}"
                yield Violation(source.path, function.first_line, "function-size", message)


# ---- words that must not appear ----

PRINTING = (
    r"\b(printf|fprintf|vprintf|vfprintf|puts|putchar|fputs|perror)\s*\(|"
    r"\bstd::(cout|cerr|clog)\b|\bfmt::print(ln)?\b|#\s*include\s*<iostream>"
)
ENDING = r"(?<!\.)(?<!->)\b(abort|exit|_exit|_Exit|quick_exit|terminate)\s*\("
DEVICE_MACRO = r"__CUDA|__NVCC__|__HIP|__APPLE__|__METAL|\b(HERD|GGML|USE)_(CUDA|METAL|GPU|HIP)"
ISA_MACRO = r"__AVX|__SSE|__FMA__|__F16C__|__ARM_NEON|__ARM_FEATURE"
BUILD_PATH = r"(?<![\w.$}/])/(work|home|root|Users|builds)/\w"


def check_words(sources):
    for s in sources:
        if not s.is_code:
            continue
        if not s.under("src/base/", "tests/cuda/"):  # the lab there is a developer's program
            for line, match in s.find(r"\b(secure_)?getenv\s*\("):
                yield Violation(s.path, line, "getenv", "the environment is read in src/base only")
        if not s.under("src/", "include/"):
            continue
        for line, match in s.find(PRINTING):
            yield Violation(s.path, line, "printing", f"{match.group(0).strip()}: the library never prints")
        for line, match in s.find(ENDING):
            yield Violation(s.path, line, "ending", f"{match.group(0)}): errors are values here")
        if s.under("src/gguf/", "src/token/", "src/engine/"):
            for line, match in s.find(r"(?<!static_)\bassert\s*\("):
                yield Violation(s.path, line, "assert-on-input", "input is checked with an error, not assert")


def check_conditionals(sources):
    for s in sources:
        if not s.is_code or not s.under(*SHIPPED):
            continue
        for line, match in s.find(r"^[ \t]*#[ \t]*(if|ifdef|ifndef|elif)\b.*$"):
            words = match.group(0)
            if re.search(DEVICE_MACRO, words) and not s.under(
                "src/base/", "src/backend/cuda/", "src/backend/metal/"
            ):
                yield Violation(s.path, line, "device-ifdef", "the build picks files; no device #if here")
            if re.search(ISA_MACRO, words) and not s.under("src/backend/cpu/isa/"):
                yield Violation(s.path, line, "device-ifdef", "instruction sets are chosen at run time")


def check_raw_sizes(sources):
    """In src/gguf a product or sum of sizes from a file goes through base/checked.h's ByteSize."""
    size = r"(?:[\w.\->\[\]]*(?:count|bytes|size|offset|length|rows|columns|dims?|shape\[\w+\]|extent)(?:\(\))?)"
    pattern = rf"(?<![\w*]){size}\s\*=?\s[\w(]"
    for s in sources:
        if not s.is_code or not s.under("src/gguf/"):
            continue
        lines, raw = s.code.split("\n"), s.text.split("\n")
        for line, match in s.find(pattern):
            if "ByteSize" in lines[line - 1] or "checked:" in raw[line - 1]:
                continue
            message = f"'{match.group(0)}': use ByteSize, or say '// checked: why it cannot overflow'"
            yield Violation(s.path, line, "raw-size", message)


def check_build_paths(sources):
    for s in sources:
        if s.under("tests/rules/"):
            continue
        for line, match in s.find(BUILD_PATH, s.text):
            yield Violation(s.path, line, "build-path", f"'{match.group(0)}': an absolute path of one machine")
        if s.under(*SHIPPED):
            for line, _ in s.find(r"(?<![\w.])/tmp/", s.text):
                yield Violation(s.path, line, "build-path", "'/tmp/': an absolute path of one machine")


CHECKS = [
    check_room_order,
    check_includes,
    check_sizes,
    check_words,
    check_conditionals,
    check_raw_sizes,
    check_build_paths,
]


def check_tree(root):
    sources = read_tree(root)
    return sorted({violation for check in CHECKS for violation in check(sources)})


def main(arguments):
    if len(arguments) > 1:
        print(__doc__, file=sys.stderr)
        return 2
    root = Path(arguments[0]) if arguments else Path(__file__).resolve().parents[2]
    if not (root / "src").is_dir():
        print(f"{root}: no src/ folder here", file=sys.stderr)
        return 2
    violations = check_tree(root)
    for violation in violations:
        print(violation)
    print(f"{len(violations)} broken rules" if violations else "all rules kept")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
