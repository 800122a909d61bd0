#!/usr/bin/env python3
"""Writes the manual page herd(1) from the program's own --help texts.

usage: man.py HERD OUT
"""

import datetime
import os
import subprocess
import sys


def help_of(herd, *command):
    return subprocess.run([herd, *command, "--help"], stdout=subprocess.PIPE, text=True, check=True).stdout


def commands_of(text):
    """Names under the heading of subcommands."""
    names, inside = [], False
    for line in text.splitlines():
        if line.strip().lower() == "subcommands:":
            inside = True
        elif inside and line.startswith("  ") and not line.startswith("   "):
            names.append(line.split()[0])
        elif inside and line and not line.startswith(" "):
            break
    return names


def escape(text):
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    return "".join("\\&" + line if line.startswith(".") else line for line in text.splitlines(keepends=True))


def verbatim(text):
    return ".nf\n" + escape(text.strip("\n")) + "\n.fi\n"


def page(herd):
    whole = help_of(herd)
    version = subprocess.run([herd, "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    # Reproducible builds say which time it is.
    now = datetime.datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", "0")), datetime.timezone.utc)
    date = now.strftime("%Y-%m-%d") if "SOURCE_DATE_EPOCH" in os.environ else ""
    names = commands_of(whole)
    if not names:
        sys.exit("man.py: no commands in the help text")
    out = f'.TH HERD 1 "{date}" "{version}" "User Commands"\n'
    out += ".SH NAME\nherd \\- run Llama\\-family models for many sequences at once\n"
    out += ".SH SYNOPSIS\n.B herd\n.I COMMAND\n[\n.I OPTIONS\n]\n"
    out += ".SH DESCRIPTION\n" + verbatim(whole)
    out += ".SH COMMANDS\n"
    for name in names:
        out += f".SS herd {escape(name)}\n" + verbatim(help_of(herd, name))
    out += ".SH EXIT STATUS\n0: done. 1: it failed. 2: wrong use. 130: stopped with Ctrl\\-C.\n"
    return out


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    text = page(sys.argv[1])
    with open(sys.argv[2], "w", encoding="utf-8") as out:
        out.write(text)


if __name__ == "__main__":
    main()
