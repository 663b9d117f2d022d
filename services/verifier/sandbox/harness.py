"""What a sealed child does: read the job from descriptor 0, run the program, report on descriptor 3, end.

Invariants:
- Everything here runs at the mercy of the program, which may patch or walk into any of it. So it holds nothing
  worth stealing: the program, one input, no expected output. A forged report is only the program's answer.
- The child ends by `os._exit`, so it never returns into the zygote's loop.
- Every end that is the program's own has a last word, `END`, behind what was reported; an end without it (a C library
  that gives up, a harness that could not go on) is never taken for the program's own exit.
- What tells that memory is used up needs none: `OUT_OF_MEMORY` is ready before the program starts, and the status
  `SPEECHLESS`, with which the zygote ends a child whose harness could do nothing more, is a number.

Descriptor 0 carries a 4-byte length, that much JSON `{"source", "fn_name", "prelude", "setup", "values"}`, then the
test's input. A functional test (`fn_name`) has one JSON argument per input line, and its program is imported, not run
as `__main__`; with `values` the input is `[arguments, named arguments]` in the JSON of `values`, and so is the result.
A stdin test reads the input itself.
"""

from __future__ import annotations

import ast
import atexit
import contextlib
import errno
import gc
import io
import json
import os
import sys
import threading
import types
from _io import _IOBase
from typing import Any, NoReturn

from pmd.services.common import values

RESULT_FD = 3
SOURCE_NAME = "solution.py"
SETUP_NAME = "setup.py"
MAX_DEPTH = 100
MAX_INT_DIGITS = 50_000
"""As LiveCodeBench allows; Python's own limit of 4300 would turn right big-number answers into errors."""
MAX_FRAMES = 3
MAX_CAUSES = 10
LOST = " without "
"""`error return without exception set`, `returned NULL without setting an exception`: how Python 3.11 ends a deep
recursion for whose own error there was no memory left."""
MAX_MESSAGE = 500
SCALARS = (int, float, str, bool, type(None))
CONTENTS = ((int, int.__pos__), (float, float.__pos__), (str, str.__str__))
"""What an object of a subclass holds."""

STAR_IMPORTS = """
string re datetime collections heapq bisect copy math random statistics itertools functools operator io sys json
builtins typing
"""
OF_SYS = ("argv", "stdin", "stdout", "stderr")
"""Names of `sys` that each child binds anew."""


def _prelude() -> dict[str, Any]:
    """What LiveCodeBench's grader imports before every program, in its order: later names hide earlier ones."""
    names: dict[str, Any] = {}
    modules = STAR_IMPORTS.split()
    for line in (*(f"from {m} import *" for m in modules), *(f"import {m}" for m in modules[:-2])):
        exec(line, names)  # noqa: S102 -- our own
    for name in ("__builtins__", *OF_SYS):
        names.pop(name)
    return names


PRELUDE = _prelude()
PRELUDE_RECURSION = 50_000
LOADED = b"@"
"""Before a function is called: a program that is ended without it was still loading."""
END = b"."
"""The harness' last word, which no JSON ends with."""
OUT_OF_MEMORY = b"MemoryError" + END
"""The last word, whatever was reported before, of a program that could take no more memory."""
NAMELESS = b'{"error":{"type":"Exception","message":"","frames":[]}}'
SPEECHLESS = 86
NO_THREAD = "can't start new thread"
"""What Python says when there is no memory for a thread's stack; nothing else keeps a sealed child from a thread."""
leave = os._exit
"""As it is before a program can put something else in its place."""


def run() -> NoReturn:
    """Run the job that waits on descriptor 0. Must be called in a sealed child."""
    code = 1
    source = ""
    module: types.ModuleType | None = None
    try:
        job = json.loads(_read(int.from_bytes(_read(4), "big")))
        source, fn_name = job["source"], job["fn_name"]
        _open_standard_streams()
        module = types.ModuleType("solution" if fn_name else "__main__")
        module.__file__ = f"/{SOURCE_NAME}"
        sys.modules["__main__"] = sys.modules[module.__name__] = module
        sys.argv = [SOURCE_NAME]
        os._exit = sys.modules["posix"]._exit = _exit_of_the_program  # type: ignore[attr-defined]
        sys.set_int_max_str_digits(MAX_INT_DIGITS)
        random = sys.modules.get("random")
        if random is not None:
            random.seed(0)  # a verdict depends on the program and the test alone
        gc.enable()
        arguments, named = _arguments(values_of=job["values"]) if fn_name else ([], {})
        if job["prelude"]:
            module.__dict__.update(PRELUDE, **{name: getattr(sys, name) for name in OF_SYS})
            sys.setrecursionlimit(PRELUDE_RECURSION)
        if job["setup"]:
            exec(compile(job["setup"], SETUP_NAME, "exec", dont_inherit=True), module.__dict__)  # noqa: S102
        exec(_compile(source, as_function=job["prelude"] and not fn_name), module.__dict__)  # noqa: S102 -- the purpose
        if fn_name:
            _write(LOADED)
            value = _find(module, fn_name)(*arguments, **named)
            if job["values"]:
                said = {"returned": values.encode(value), "after": values.encode(arguments)}
                _write(json.dumps({"value": said}).encode() + END)
                leave(0)
            if isinstance(value, tuple):
                value = list(tuple.__iter__(value))
            plain = _plain(value, 0, literal=job["prelude"])
            _write(json.dumps({"value": plain}, allow_nan=False).encode() + END)
            leave(0)  # the answer is the value; threads and exit handlers have no say in it
        code = 0
    except SystemExit as request:
        code = _exit_code(request)
    except MemoryError:
        _leave_without_memory()
    except BaseException as error:  # whatever the program raises is its verdict's feedback
        _report(error, source)
    module = None  # `_finish` lets go of what the program made
    _finish(code)


def _read(size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = os.read(0, size - len(data))
        if not chunk:
            raise EOFError("the job ended early")
        data += chunk
    return data


def _arguments(*, values_of: bool) -> tuple[list[Any], dict[str, Any]]:
    chunks = []
    while chunk := os.read(0, 1 << 16):
        chunks.append(chunk)
    text = b"".join(chunks).decode("utf-8", "surrogatepass")
    if values_of:
        arguments, named = values.decode(json.loads(text))
        return arguments, named
    return [json.loads(line) for line in text.split("\n") if line.strip()], {}


def _open_standard_streams() -> None:
    """New objects over 0, 1 and 2: the zygote's were made for /dev/null and remember its kind."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        mode = "w" if fd else "r"
        binary: Any = open(fd, f"{mode}b", closefd=False)  # noqa: SIM115
        binary.raw.name = f"<{name}>"
        errors = "backslashreplace" if name == "stderr" else "surrogateescape"
        text: Any = io.TextIOWrapper(binary, "utf-8", errors, line_buffering=name == "stderr")
        text.mode = mode  # the interpreter sets it too, and templates for fast input look at it
        setattr(sys, name, text)
        setattr(sys, f"__{name}__", text)


def _compile(source: str, *, as_function: bool) -> types.CodeType:
    """The program; what is none may be the body of a function, which LiveCodeBench makes of all that read stdin: there
    `return` and `nonlocal` are no errors."""
    try:
        return compile(source, SOURCE_NAME, "exec", dont_inherit=True)
    except SyntaxError:
        if not as_function:
            raise
        tree, wrapped = ast.parse(source), ast.parse("def wrapped_function(): pass\nwrapped_function()")
        imports = [line for line in tree.body if isinstance(line, ast.Import | ast.ImportFrom)]
        wrapped.body[0].body += [line for line in tree.body if line not in imports]  # type: ignore[attr-defined]
        wrapped.body[:0] = imports
        return compile(wrapped, SOURCE_NAME, "exec", dont_inherit=True)


def _find(module: types.ModuleType, name: str) -> Any:
    """The function to call: a method of `Solution` when the program defines one, as LeetCode's starters do."""
    names = module.__dict__
    solution = names.get("Solution")
    if solution is not None and hasattr(solution, name):
        return getattr(solution(), name)
    if name not in names:
        raise NameError(f"name {name!r} is not defined")
    return names[name]


def _plain(value: Any, depth: int, *, literal: bool) -> Any:
    """`value` in JSON's own types. Of a subclass (an enumeration's member, a number of numpy) counts what it holds; its
    methods have no say.

    Args:
        literal: as LiveCodeBench has it, a tuple in a value, a set and a dict with numbers for keys equal no JSON.
            Else they are a list, a sorted list, and a dict with the numbers' texts for keys.
    """
    kind = type(value)
    if kind in SCALARS:
        return value
    if depth > MAX_DEPTH:
        raise TypeError("the returned value is nested too deeply")
    if issubclass(kind, list):
        return [_plain(item, depth + 1, literal=literal) for item in list.__iter__(value)]
    if issubclass(kind, dict):
        items = dict.items(value)
        return {_key(key, literal=literal): _plain(item, depth + 1, literal=literal) for key, item in items}
    if not literal:
        for several in (tuple, set, frozenset):
            if issubclass(kind, several):
                parts = [_plain(item, depth + 1, literal=False) for item in several.__iter__(value)]
                return parts if several is tuple else sorted(parts)
    for scalar, content in CONTENTS:
        if issubclass(kind, scalar):
            return content(value)
    numpy = sys.modules.get("numpy")
    if numpy is not None and issubclass(kind, numpy.generic):
        return _plain(value.item(), depth + 1, literal=literal)
    raise TypeError(f"the returned value holds a {kind.__name__}; return numbers, strings, lists or dicts")


def _key(key: Any, *, literal: bool) -> str:
    if type(key) is int and not literal:
        return str(key)
    if not isinstance(key, str):
        raise TypeError(f"a returned dict has a key of type {type(key).__name__}; keys must be str")
    return str.__str__(key)


def _exit_code(request: SystemExit) -> int:
    if request.code is None:
        return 0
    if isinstance(request.code, int):
        return request.code & 0xFF
    with contextlib.suppress(Exception):
        print(request.code, file=sys.stderr)
    return 1


def _exit_of_the_program(status: int) -> NoReturn:
    """`os._exit`, with the last word."""
    _write(END)
    leave(status)


def _leave_without_memory() -> NoReturn:
    os.write(RESULT_FD, OUT_OF_MEMORY)  # nothing that would have to be made first: not even a suppressing context
    leave(1)


def _is_of_memory(error: BaseException) -> bool:
    """Whether memory was refused, by the other names that Python has for it, or what was refused led to `error`."""
    cause: BaseException | None = error
    for _ in range(MAX_CAUSES):
        if cause is None:
            break
        kinds = type(cause).__mro__  # `isinstance` may be the program's
        if (
            MemoryError in kinds
            or (OSError in kinds and cause.errno == errno.ENOMEM)  # type: ignore[attr-defined]
            or (RuntimeError in kinds and cause.args == (NO_THREAD,))
            or (kinds[0] is SystemError and LOST in str(cause))
        ):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _report(error: BaseException, source: str) -> None:
    """Tell the parent what the program raised and through which of its own lines."""
    try:
        if _is_of_memory(error):
            _leave_without_memory()
        lines = source.split("\n")
        frames: list[tuple[int, str, str]] = []
        trace = error.__traceback__
        while trace is not None:
            code = trace.tb_frame.f_code
            if code.co_filename == SOURCE_NAME:
                line = lines[trace.tb_lineno - 1].strip() if trace.tb_lineno <= len(lines) else ""
                frames = [*frames[1 - MAX_FRAMES :], (trace.tb_lineno, code.co_name[:80], line[:160])]
            trace = trace.tb_next
        message = f"{error.msg} (line {error.lineno})" if isinstance(error, SyntaxError) else str(error)
        body = {"type": type(error).__name__[:80], "message": message[:MAX_MESSAGE], "frames": frames}
        _write(json.dumps({"error": body}).encode())
    except MemoryError:
        _leave_without_memory()
    except BaseException:  # an exception whose own __str__ fails has no message
        _write(NAMELESS)


def _write(data: bytes) -> None:
    with contextlib.suppress(OSError):  # the program may have closed the descriptor: then there is no result
        while data:
            data = data[os.write(RESULT_FD, data) :]


def _finish(code: int) -> NoReturn:
    """End as an interpreter does: wait for threads, run exit handlers (many programs print there), flush, finalise."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None and not getattr(stream, "closed", False):
                stream.flush()
    except MemoryError:
        _leave_without_memory()
    except BaseException:
        code = code or 120  # CPython's own status for output that could not be flushed
    try:
        if _write_out():
            del sys.modules["__main__"]
            gc.collect()
            sys.__stdout__.flush()  # type: ignore[union-attr]
    except MemoryError:
        _leave_without_memory()
    except BaseException:  # noqa: S110 -- an interpreter's end ignores it too
        pass
    _write(END)
    leave(code)


def _write_out() -> bool:
    """Write what lies in files over standard output that were never closed, or put out of the way; whether the program
    has finalisers, which an interpreter runs at its end too."""
    finalisers = False
    for thing in gc.get_objects():  # made in this child: what the zygote made is frozen
        kind = type(thing)
        if issubclass(kind, _IOBase):
            with contextlib.suppress(BaseException):
                thing.flush()
        elif issubclass(kind, type):
            finalisers = finalisers or hasattr(thing, "__del__")
    return finalisers
