r"""What of a completion counts as its answer.

Rules, applied in this order; they are fixed, so a policy can learn them and a verdict can be explained:

1. Thinking is not an answer: `<think>..</think>` is removed. A closing tag without an opening one (templates that
   open it in the prompt) removes everything before it; an opening tag without a closing one everything after it.
2. A program is the last fenced block that is marked as Python, or else the last one that is not marked at all, which
   behind a marked one is sample output. Fences are lines of three or more backticks or tildes, as in CommonMark: a
   block ends at a line of the same character, at least as long, with nothing else on it but tags, and at most `CLOSER`
   columns further in. A block in a list is moved left as a whole, as far as its fence was in. When the last fence
   opened is never closed, the completion was cut short: there is no program; but one that begins with a line of Python
   goes on in a block that the prompt opened, and its first fence closes that.
3. An answer is the text after the last `<answer>` up to the next `</answer>` or the end, stripped. Kinds that judge
   text take the whole completion where there is none.
4. A box is the content of `\boxed{..}` with its braces balanced; a box inside a box belongs to the outer one.
5. What only dresses an answer as a whole is no part of it: `$B$`, `\(B\)`, `\text{B}`, `**B**`, `<b>B</b>`, one in
   another too.

Invariant: time is linear in the completion, whatever it holds; this runs in the trusted process.
"""

from __future__ import annotations

import re

_OPEN, _CLOSE = "<think>", "</think>"
_FENCE = re.compile(r"([ \t]*)(`{3,}|~{3,})")
_WORD = re.compile(r"\w+")
_PYTHON = frozenset({"python", "python3", "py", "py3", "pypy", "pypy3"})
_TAGS_BEFORE = re.compile(r"^[ \t]*(?:<\w{1,20}>[ \t]*)+(?=```|~~~)", re.MULTILINE)
_TAGS_BEHIND = re.compile(r"^([ \t]*(?:`{3,}|~{3,}))[ \t]*(?=<[/|]\w{1,20}\|?>)", re.MULTILINE)
_BEGINS_AS_PYTHON = re.compile(
    r"\s*(?:import [\w., ]+$|from [\w.]+ import |(?:async )?def \w+\(|class \w+.*:|@\w|[A-Za-z_][\w.]*(?:, ?\w+)* = \S"
    r"|for \w+(?:, ?\w+)* in \w+\(|while True:|if __name__|with \w+\(|try:|[\w.]+\()",
    re.MULTILINE,
)
"""A line that a program begins with, and no sentence does."""
CLOSER = 3
"""A fence that is further in belongs to a text in the program."""
_BRACE = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)


def without_thinking(text: str) -> str:
    """`text` without its thinking (rule 1)."""
    kept = []
    at = 0
    while (opened := text.find(_OPEN, at)) >= 0 and (closed := text.find(_CLOSE, opened)) >= 0:
        kept.append(text[at:opened])
        at = closed + len(_CLOSE)
    kept.append(text[at:].partition(_OPEN)[0])
    return "".join(kept).rpartition(_CLOSE)[2]


def _fence_of(line: str) -> tuple[str, str, str] | None:
    """The white space before the fence that `line` consists of, the fence, and the first word after it; None for other
    lines."""
    mark = _FENCE.match(line)
    if mark is None:
        return None
    info = line[mark.end() :]
    if "`" in info:  # an inline code span, not a fence
        return None
    language = _WORD.search(info)
    return mark[1], mark[2], language[0].lower() if language else ""


def program_of(completion: str) -> str | None:
    """The program that a completion answers with (rule 2), or None."""
    return block_of(completion, _PYTHON) or _continued_block(completion)


def block_of(completion: str, languages: frozenset[str]) -> str | None:
    """The content of the last fenced block in one of `languages`, or else in none, by the same rule, or None."""
    return _last_block(_lines(completion), languages)


def _continued_block(completion: str) -> str | None:
    """The program of a completion that goes on in a block of the prompt."""
    lines = _lines(completion)
    if not _BEGINS_AS_PYTHON.match("\n".join(lines)):
        return None
    return _last_block(["```python", *lines], _PYTHON)


def _lines(completion: str) -> list[str]:
    text = without_thinking(completion).replace("\r\n", "\n")
    return _TAGS_BEHIND.sub("\\1\n", _TAGS_BEFORE.sub("", text)).split("\n")


def _last_block(lines: list[str], languages: frozenset[str]) -> str | None:
    marked: str | None = None
    bare: str | None = None
    indent, fence, language, block = "", "", "", [""]
    for line in lines:
        mark = _fence_of(line)
        if not fence:
            if mark:
                (indent, fence, language), block = mark, []
        elif mark and mark[1].startswith(fence) and line.strip() == mark[1] and len(mark[0]) <= len(indent) + CLOSER:
            if language in languages:
                marked = "\n".join(_moved_left(block, indent)) + "\n"
            elif not language:
                bare = "\n".join(_moved_left(block, indent)) + "\n"
            fence = ""
        else:
            block.append(line)
    return None if fence else bare if marked is None else marked


def _moved_left(block: list[str], indent: str) -> list[str]:
    """The lines of a block without the indentation of its fence, where all have it."""
    if not all(line.startswith(indent) or not line.strip() for line in block):
        return block
    return [line[len(indent) :] for line in block]


def answer_of(completion: str) -> str | None:
    """The text of the last answer block (rule 3), or None when there is none."""
    _, tag, rest = without_thinking(completion).rpartition("<answer>")
    return rest.partition("</answer>")[0].strip() if tag else None


def text_answer(completion: str) -> str:
    """The last answer block (rule 3), or else the whole completion without its thinking."""
    given = answer_of(completion)
    return without_thinking(completion).strip() if given is None else given


_DRESS = (
    ("$$", "$$"),
    ("$", "$"),
    (r"\(", r"\)"),
    (r"\[", r"\]"),
    ("**", "**"),
    ("__", "__"),
    ("`", "`"),
    *((f"<{tag}>", f"</{tag}>") for tag in ("b", "strong", "i", "em", "u", "code", "p", "span")),
)
_DRESSING_COMMAND = re.compile(r"\\(?:text(?:bf|it|rm|tt)?|math(?:rm|bf|it)|mbox|emph)\s*\{")
_MAX_DRESS = 8


def undressed(text: str) -> str:
    """`text` without what dresses it as a whole (rule 5), stripped."""
    for _ in range(_MAX_DRESS):
        text = text.strip()
        inner = _inner(text)
        if inner is None:
            break
        text = inner
    return text


def _inner(text: str) -> str | None:
    for opening, closing in _DRESS:
        if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening) + len(closing):
            inner = text[len(opening) : -len(closing)]
            if opening not in inner and closing not in inner:
                return inner
    command = _DRESSING_COMMAND.match(text)
    if command and text.endswith("}") and _closes_last(text, command.end()):
        return text[command.end() : -1]
    return None


def _closes_last(text: str, at: int) -> bool:
    """Whether the brace that is open at `at` is closed by the last character."""
    depth = 1
    for brace in _BRACE.finditer(text, at):
        depth += (brace[0].endswith("{") and brace[0] != "\\{") - (brace[0] == "}")
        if depth == 0:
            return brace.end() == len(text)
    return False


def boxes_of(text: str) -> list[str]:
    """The contents of all outermost boxes (rule 4), in order."""
    boxes: list[str] = []
    opened: list[int] = []
    """For each open brace, where the content of its box begins; -1 when it opens no box, or one inside a box."""
    inside = False
    for brace in _BRACE.finditer(text):
        mark = brace[0]
        if mark.endswith("{") and mark != "\\{":
            opens_box = mark != "{" and not inside
            inside = inside or opens_box
            opened.append(brace.end() if opens_box else -1)
        elif mark == "}" and opened:
            start = opened.pop()
            if start >= 0:
                boxes.append(text[start : brace.start()])
                inside = False
    return boxes
