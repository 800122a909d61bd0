"""What the documents' measured tables are made of, and how they get into the pages.

A page has a pair of comments round what a script writes; all else in it is written by hand:
    <!-- evidence: NAME -->
    ...
    <!-- end -->
"""

import re
import statistics
import textwrap

BEGIN, END = "<!-- evidence: {} -->", "<!-- end -->"


def spread(values):
    """median (lowest..highest)"""
    digits = 0 if statistics.median(values) >= 100 else 1
    median, low, high = (f"{x:,.{digits}f}" for x in (statistics.median(values), min(values), max(values)))
    return f"{median} ({low}..{high})"


def percent(share):
    return f"{100 * share:.0f} %"


def table(head, rows, corner=""):
    """A table; `corner` is the title of its first column. REQUIRES: in each row a cell more than in the head."""
    lines = [[corner, *head], *rows]
    for line in lines:
        if len(line) != len(head) + 1:
            raise ValueError(f"{len(line)} cells in a row of a table of {len(head) + 1}: {line}")
    first, *rest = ("|" + "|".join(f" {cell} " if cell else " " for cell in line) + "|\n" for line in lines)
    return first + "|---" * (len(head) + 1) + "|\n" + "".join(rest)


def wrapped(text):
    """Paragraphs in lines of at most 118 characters; tables and lists as they are."""
    def fill(line):
        if line.startswith(("|", "- ")):
            return line
        return textwrap.fill(line, 118, break_long_words=False, break_on_hyphens=False)
    return "\n".join(map(fill, text.split("\n")))


def names(page):
    """Of the page's blocks, in order."""
    return re.findall(BEGIN.format("(.+?)"), page)


def filled(page, name, body):
    """The page with `body` as the block's content. Errors: ValueError if there is not exactly one such block, or it
    does not end before the next begins."""
    begin = BEGIN.format(name)
    if page.count(begin) != 1:
        raise ValueError(f"{page.count(begin)} times '{begin}' in the page: 1 is needed")
    before, rest = page.split(begin)
    content, end, after = rest.partition(END)
    if not end or BEGIN.partition("{")[0] in content:
        raise ValueError(f"'{begin}' has no '{END}' of its own")
    return f"{before}{begin}\n{body.strip()}\n{END}{after}"
