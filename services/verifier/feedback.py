"""What a verdict tells the one who tries again: the first runtime error, else a timeout, else wrong cases.

Invariants:
- Deterministic: the same program on the same tests gives the same text (memory addresses are masked).
- Bounded: `MAX_CHARS` in all, `FIELD_CHARS` and `FIELD_LINES` per quoted field.
- Inert: control characters, lone surrogates, invisible and direction marks, and the opening of what models and
  templates take for a mark (`<|`, `<think>`, `</feedback>`, `<start_of_turn>`, `[INST]`) are escaped, because this
  text, which the program may have written, is put into a prompt.
- An expected output is quoted only when the spec allows it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

MAX_CHARS = 2000
FIELD_CHARS = 250
FIELD_LINES = 8
MAX_CASES = 2

NO_PROGRAM = "No code block found."
TOO_LONG = "The program is too long."
PRIVATE_ERROR = "Runtime error on a private test."
PRIVATE_WRONG = "Wrong answer on a private test."
_MARK = re.compile(
    r"<(?=[|\uff5c]|/?[A-Za-z_]\w*[ \t]*/?>)|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|THINK|TOOL_\w{1,20})\])"
)
"""The first character of a mark: a tag's without attributes, a special token's, one of Mistral's."""
_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}\b")
_ESCAPED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


@dataclass(frozen=True, slots=True)
class Frame:
    """One line of the program through which an error passed."""

    line: int
    function: str
    text: str


@dataclass(frozen=True, slots=True)
class Case:
    """A test that did not pass, as feedback may quote it."""

    input: str
    output: str = ""
    expected: str = ""
    """Empty when it must not be shown."""


def wrong_answers(cases: Sequence[Case]) -> str:
    """The shortest failing cases."""
    shortest = sorted(cases, key=lambda c: (len(c.input), c.input))[:MAX_CASES]
    return _bounded("\n\n".join(_case(case) for case in shortest))


def runtime_error(name: str, message: str, frames: Sequence[Frame], case: Case) -> str:
    """An error that ended the program, with the lines of its own that led there, outermost first."""
    head = f"{_clean(name)}: {_quote(message)}" if message else _clean(name)
    lines = [f"  line {f.line} in {_clean(f.function)}: {_clean(f.text)}".rstrip(": ") for f in frames]
    return _bounded("\n".join([head, *lines, _field("Input", case.input)]))


def ended_with(status: int) -> str:
    """An exit status that is not 0."""
    return f"the program ended with status {status}"


def limit_exceeded(what: str, case: Case | None) -> str:
    """A limit that the program ran into: `what` is Time, Memory or Output. None: the case must not be shown."""
    if case is None:
        return f"{what} limit exceeded on a private test."
    return _bounded(f"{what} limit exceeded.\n{_field('Input', case.input)}")


def limit_exceeded_while_loading(what: str) -> str:
    """A limit that the program ran into before its function was called, whatever the input."""
    return f"{what} limit exceeded while loading the program."


def wrong_text(answer: str, expected: str) -> str:
    """An answer that is not the expected one; `expected` is empty when it must not be shown."""
    return _bounded("\n".join(_field(n, t) for n, t in (("Answer", answer), ("Expected", expected)) if t))


def note(text: str) -> str:
    """Text of somebody else's, a line each, in the limits of feedback as a whole."""
    head = text[:MAX_CHARS]
    return _bounded(
        "\n".join(_clean(line) for line in head.strip().split("\n")) + (" .." if len(text) > MAX_CHARS else "")
    )


def _case(case: Case) -> str:
    fields = [_field("Input", case.input), _field("Output", case.output)]
    if case.expected:
        fields.append(_field("Expected", case.expected))
    return "\n".join(fields)


def _field(name: str, text: str) -> str:
    quoted = _quote(text)
    return f"{name}:\n{quoted}" if "\n" in quoted else f"{name}: {quoted}".rstrip()


def _quote(text: str) -> str:
    """`text`, escaped and clipped in the middle to the limits of a field."""
    text = text.strip("\n")
    lines = text[: 4 * FIELD_CHARS].split("\n")
    dropped = len(lines) > FIELD_LINES or len(text) > 4 * FIELD_CHARS
    quoted = "\n".join(_clean(line) for line in lines[:FIELD_LINES])
    if len(quoted) > FIELD_CHARS:
        head, tail = FIELD_CHARS * 3 // 5, FIELD_CHARS * 2 // 5
        return f"{quoted[:head]} .. {'' if dropped else quoted[-tail:]}".rstrip()
    return f"{quoted}\n.." if dropped else quoted


def _clean(text: str) -> str:
    text = _MARK.sub(lambda mark: f"\\x{ord(mark[0]):02x}", _ADDRESS.sub("0x..", text))
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c == "\t" or unicodedata.category(c) not in _ESCAPED_CATEGORIES else _escape(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode()


def _bounded(text: str) -> str:
    return text if len(text) <= MAX_CHARS else text[: MAX_CHARS - 3] + " .."
