"""Reading C++ well enough for the rules: text without comments and strings, and its functions."""

import re
from dataclasses import dataclass

_SKIP = re.compile(
    r'//[^\n]*|/\*.*?\*/|R"([^()\\\s]{0,16})\(.*?\)\1"|"(?:\\.|[^"\\\n])*"|'
    r"(?<![0-9A-Za-z_])'(?:\\.|[^'\\\n])+'",
    re.DOTALL,
)


def without_comments_and_strings(text):
    """The same lines and columns, with comments blanked and string contents gone."""

    def blank(match):
        found = match.group(0)
        body = re.sub(r"[^\n]", " ", found)
        if found.startswith("/"):
            return body
        return '"' + body[1:-1] + '"' if len(found) >= 2 else body

    return _SKIP.sub(blank, text)


@dataclass
class Function:
    name: str
    first_line: int
    lines: int


_TYPE_HEAD = re.compile(r"\b(class|struct|union|enum)\b")
_INIT_LIST = re.compile(r"\)\s*(noexcept\s*)?:(?!:)")
_NAME = re.compile(r"([~\w:<>]+|operator\s*\S+?)\s*\(")


def _kind(head, previous):
    """What a '{' after `head` opens; `previous` is the last character that is not a space."""
    if re.match(r"\s*(inline\s+)?namespace\b", head) or re.match(r'\s*extern\s*"', head):
        return "scope"
    if _INIT_LIST.search(head) and (previous.isalnum() or previous in "_>"):
        return "member_init"
    opens_type = _TYPE_HEAD.search(head.split("(")[0])
    if opens_type and "(" not in head:
        return "scope"
    if "(" in head and not re.search(r"=\s*$", head) and previous != "(":
        return "function"
    return "scope" if opens_type else "other"


def functions(text):
    """Functions with a body, found by counting braces: an approximation, exact on our style."""
    code = without_comments_and_strings(text)
    code = re.sub(r"(?m)^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", lambda m: re.sub(r"[^\n]", " ", m.group(0)), code)
    found, stack = [], []
    head_start, parens = 0, 0
    for at, c in enumerate(code):
        inside = any(kind in ("function", "other") for kind, _, _ in stack)
        if inside:
            if c == "{":
                stack.append(("inner", 0, ""))
            elif c == "}":
                kind, start, head = stack.pop()
                if kind == "function":
                    first = code.count("\n", 0, start) + 1
                    last = code.count("\n", 0, at) + 1
                    name = _NAME.search(head)
                    found.append(Function(name.group(1) if name else "?", first, last - first + 1))
                if kind in ("function", "other") and not (kind == "other" and head == "init"):
                    head_start = at + 1
            continue
        if c in "()":
            parens += 1 if c == "(" else -1
        if c == ";" and parens == 0:
            head_start = at + 1
        elif c == "{":
            head = code[head_start:at]
            stripped = head.rstrip()
            kind = _kind(head, stripped[-1:] or " ")
            if parens > 0:
                stack.append(("other", at, "init"))
            elif kind == "member_init":
                stack.append(("other", at, "init"))
            else:
                start = head_start + len(head) - len(head.lstrip())
                stack.append((kind, start, head))
                if kind == "scope":
                    head_start = at + 1
        elif c == "}":
            if stack:
                stack.pop()
            head_start = at + 1
    return found
