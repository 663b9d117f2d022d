"""Unit tests in a sealed child of their own: they call the program's functions, which are not there.

Invariants:
- No code of the candidate's is in this process. A call is answered from a table: what the program, in a process of its
  own, made of these arguments before. Where the table has no answer, this process ends with the question, the program
  is run on it, and the tests begin again. They are the same each time, since all that is random here repeats.
- What comes out of the table are values of `pmd.services.common.values`: no method of the candidate's is ever called.
- What the tests' code can't swallow decides: a question, an exceeded limit and a call that can't be passed on end the
  process or spoil the test, whatever the tests catch.

Trusted code: the tests are the spec's. They are sealed because a data set's tests are still somebody's code.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import json
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from pmd.services.common import values
from pmd.services.verifier.sandbox import harness

TESTS_NAME = "tests.py"
MAX_AHEAD = 256
"""Calls that are asked for before a test makes them."""
MAX_SHOWN = 2_000
"""Characters of a value or of a line that a failure holds."""

Table = dict[str, dict[str, Any]]
"""By the question's key (`_key`): `{"returned", "after"}`, `{"error": [type, message]}` or `{"limit": outcome}`."""

_NAMING = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.ExceptHandler, ast.MatchAs, ast.MatchStar)


class TestsError(Exception):
    """The tests themselves can't be used; the message is for whoever wrote them."""


class _Limit(BaseException):
    """The program exceeded a limit on this call."""


class _Stop(BaseException):
    """The first failure, where one is enough."""


def judge(spec: dict[str, Any], table: Table) -> dict[str, Any]:
    """Run the tests as far as the table goes.

    Args:
        spec: `setup`, `tests` (texts), `test_code`, `entry_point` (or None), `partial`.

    Returns:
        `{"broken": why}`: the tests can't be used. `{"tests", "passed", "failures", "calls"}`: they have ended. This
        process ends by itself with `{"ask": [[function, arguments as JSON], ..]}` where the table lacks an answer.
    """
    try:
        return _Tests(spec, table).run()
    except TestsError as error:
        return {"broken": str(error)[:MAX_SHOWN]}


class _Tests:
    def __init__(self, spec: dict[str, Any], table: Table) -> None:
        self.table, self.partial, self.entry = table, spec["partial"], spec["entry_point"]
        self.names: dict[str, Any] = {"__name__": "tests"}
        self.setup = spec["setup"]
        self.pieces = [_parse(text, f"tests.{n}") for n, text in enumerate(spec["tests"])]
        self.whole = _parse(spec["test_code"], "test_code") if spec["test_code"] else None
        self.texts = [*spec["tests"], spec["test_code"]]
        self.failures: list[dict[str, Any]] = []
        self.called = 0
        self.spoilt: str | None = None
        self.last: dict[str, Any] | None = None

    def run(self) -> dict[str, Any]:
        try:
            exec(compile(self.setup, "setup.py", "exec", dont_inherit=True), self.names)  # noqa: S102 -- the spec's
        except Exception as error:
            raise TestsError(f"setup can't be run: {type(error).__name__}: {error}") from error
        trees = [*self.pieces, *([self.whole] if self.whole else [])]
        known = self._known()
        wanted = [self.entry] if self.entry else sorted({n for tree in trees for n in _called(tree)} - known)
        loaded = {node.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)}
        if "*" not in known and (unknown := sorted(loaded - known - set(wanted))):
            raise TestsError(f"name {unknown[0]!r} is defined neither in the tests nor in setup")
        if not wanted:
            raise TestsError("the tests call no function that they don't define; name entry_point")
        for name in wanted:
            self.names[name] = _Candidate(name, self)
        self._ask_ahead(trees, wanted)
        total = passed = 0
        try:
            for number, tree in enumerate(self.pieces):
                total += 1
                before = len(self.failures)
                self._one(number, lambda tree=tree: self._exec(tree))  # type: ignore[misc]
                passed += len(self.failures) == before
            if self.whole is not None:
                asserts, reached = self._whole(self.whole)
                total += asserts
                passed += reached
        except _Stop:
            pass
        if not self.called and not self.failures:
            raise TestsError(f"the tests never call {' or '.join(wanted)}")
        return {"tests": total, "passed": passed, "failures": self.failures, "calls": self.called}

    def _known(self) -> set[str]:
        """Names that tests can use without a candidate."""
        defined = {name for tree in [*self.pieces, *([self.whole] if self.whole else [])] for name in _defined(tree)}
        return {*self.names, *dir(builtins), *defined}

    def _whole(self, tree: ast.Module) -> tuple[int, int]:
        """Run the test code; how many assertions stand in it, and how many of them held whenever they were met."""
        lines = {node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert) and not _is_idle(node)}
        met: set[int] = set()
        failed: set[int] = set()
        self.names["__met__"] = met.add
        self.names["__failed__"] = lambda line, error: self._note(line, error, failed)
        marked = ast.fix_missing_locations(_Marked().visit(tree))
        number = len(self.pieces)
        self._one(number, lambda: self._exec(marked))
        for name in [n for n in self.names if n == "check" or n.startswith("test_")]:
            function = self.names[name]
            if callable(function) and not isinstance(function, _Candidate):
                self._one(number, lambda function=function: self._call(function))  # type: ignore[misc]
        held = len((met & lines) - failed)
        if not lines:  # it tells by raising
            return 1, int(not self.failures)
        return len(lines), held if held < len(lines) or not self.failures else held - 1

    def _call(self, function: Callable[..., Any]) -> None:
        wanted = len(inspect.signature(function).parameters)
        if wanted > 1 or (wanted and not self.entry):
            raise TestsError("check takes the function under test, which entry_point names, and nothing else")
        function(*([self.names[self.entry]] if wanted else []))

    def _exec(self, tree: ast.Module) -> None:
        exec(compile(tree, TESTS_NAME, "exec", dont_inherit=True), self.names)  # noqa: S102 -- the spec's

    def _one(self, number: int, work: Callable[[], None]) -> None:
        """Run one test, and note how it fails."""
        self.spoilt, self.last = None, None
        self.number = number
        error: BaseException | None = None
        try:
            work()
        except (_Stop, TestsError):
            raise
        except BaseException as raised:  # SystemExit too: tests that end the process have not passed
            error = raised
        if self.spoilt is not None:
            self._fail({"limit": self.spoilt, "line": ""})
        elif error is not None and not self.called:
            raise TestsError(f"they fail before they call the program: {type(error).__name__}: {error}") from error
        elif error is not None:
            self._fail(self._told(error, _line_of(error)))

    def _note(self, line: int, error: BaseException, failed: set[int]) -> None:
        """An assertion of the test code that did not hold."""
        if isinstance(error, _Limit) or self.spoilt is not None:
            raise error
        first = line not in failed
        failed.add(line)
        if first:
            self._fail(self._told(error, line))

    def _told(self, error: BaseException, line: int) -> dict[str, Any]:
        lines = self.texts[self.number].split("\n")
        text = lines[line - 1].strip() if 0 < line <= len(lines) else ""
        by_assert = isinstance(error, AssertionError)
        said = "" if by_assert else f"{type(error).__name__}: {error}"
        return {"line": text[:MAX_SHOWN], "error": said[:MAX_SHOWN]}

    def _fail(self, failure: dict[str, Any]) -> None:
        self.failures.append({"line": "", "error": "", "limit": None, **(self.last or {}), **failure})
        if not self.partial:
            raise _Stop

    def _ask_ahead(self, trees: list[ast.Module], wanted: list[str]) -> None:
        """Ask at once for the calls that stand in the tests with their arguments written out."""
        if self.table:
            return
        given = {"candidate": self.entry} if self.entry else {}
        asked: dict[str, list[str]] = {}
        for node in (node for tree in trees for node in ast.walk(tree)):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            name = given.get(node.func.id, node.func.id)
            try:
                named = {str(k.arg): ast.literal_eval(k.value) for k in node.keywords}
                arguments = values.encode([[ast.literal_eval(a) for a in node.args], named])
            except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                continue
            if name in wanted and len(asked) < MAX_AHEAD:
                text = json.dumps(arguments)
                asked[_key(name, text)] = [name, text]
        if asked:
            _leave({"ask": list(asked.values()), "ahead": True})


class _Candidate:
    """A function of the program, as tests see it."""

    def __init__(self, name: str, tests: _Tests) -> None:
        self.__name__ = self.__qualname__ = name
        self._tests = tests

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        tests = self._tests
        tests.called += 1
        try:
            asked = json.dumps(values.encode([list(arguments), named]))
        except values.NoValue as error:
            why = f"{self.__name__} is called with what can't be passed to another process: it {error}"
            _leave({"value": {"broken": why}})
        known = tests.table.get(_key(self.__name__, asked))
        if known is None:
            _leave({"ask": [[self.__name__, asked]]})
        shown = [_shown(a) for a in arguments] + [f"{n}={_shown(v)}" for n, v in named.items()]
        tests.last = {"call": f"{self.__name__}({', '.join(shown)})"[:MAX_SHOWN], "key": [self.__name__, asked]}
        if "limit" in known:
            tests.spoilt = known["limit"]
            raise _Limit
        if "error" in known:
            raise _error(*known["error"])
        after = values.decode(known["after"])
        for argument, changed in zip(arguments, after if isinstance(after, list) else [], strict=False):
            _bring_up_to_date(argument, changed)
        tests.last["output"] = _shown(values.decode(known["returned"]))
        return values.decode(known["returned"])


def _shown(value: Any) -> str:
    try:
        return repr(value)[:MAX_SHOWN]
    except ValueError:  # an integer of more digits than Python writes
        return ".."


def _bring_up_to_date(argument: Any, after: Any) -> None:
    """Let the tests see what the program did to an argument in place."""
    if isinstance(argument, list) and isinstance(after, list):
        argument[:] = after
    elif isinstance(argument, dict | set) and isinstance(after, dict | set):
        argument.clear()
        argument.update(after)


def _error(name: str, message: str) -> Exception:
    """What the program raised, as far as the tests may tell: a built-in error, or one that is none of them."""
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception) and kind.__init__ is Exception.__init__:
        return kind(message)
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            return kind(message)
        except TypeError:  # UnicodeDecodeError and the like take more
            pass
    return RuntimeError(f"{name}: {message}")


def _key(name: str, arguments: str) -> str:
    return f"{name} {arguments}"


def _leave(said: dict[str, Any]) -> NoReturn:
    """End this process with what is to be said; nothing that the tests catch is in the way."""
    harness._write(json.dumps(said if "value" in said else {"value": said}).encode() + harness.END)
    harness.leave(0)


def _parse(text: str, field: str) -> ast.Module:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise TestsError(f"{field} is no Python: {error}") from error


def _called(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id


def _defined(tree: ast.Module) -> Iterator[str]:
    """Every name that is bound anywhere in a tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, _NAMING):
            yield node.name or ""
        elif isinstance(node, ast.MatchMapping) and node.rest:
            yield node.rest
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.alias):
            yield (node.asname or node.name).partition(".")[0]


def _is_idle(node: ast.Assert) -> bool:
    """An assertion that holds whatever the program does, as some sets have for debugging."""
    return isinstance(node.test, ast.Constant)


def _line_of(error: BaseException) -> int:
    """The line of the tests through which an error passed last."""
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == TESTS_NAME:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


class _Marked(ast.NodeTransformer):
    """Each assertion says that it was met and, where it does not hold, which line it is."""

    def visit_Assert(self, node: ast.Assert) -> Any:
        def call(name: str, *arguments: ast.expr) -> ast.stmt:
            return ast.Expr(ast.Call(ast.Name(name, ast.Load()), list(arguments), []))

        line = ast.Constant(node.lineno)
        handler = ast.ExceptHandler(
            ast.Name("Exception", ast.Load()),
            "__error__",
            [call("__failed__", line, ast.Name("__error__", ast.Load()))],
        )
        tried = ast.Try([node], [handler], [], [])
        return [ast.copy_location(call("__met__", line), node), ast.copy_location(tried, node)]
