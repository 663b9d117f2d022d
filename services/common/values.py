"""Python values as JSON, and back: what JSON itself has no word for is an object with one key, the name of its type.

| value | written as |
|---|---|
| None, bool, text, short int, finite float, list | themselves |
| tuple, set, frozenset, iterator | `{"tuple": [..]}` and so on; the items of sets in the order of their JSON |
| dict with texts for keys | itself, but one whose only key is one of these words |
| dict | `{"dict": [[key, value], ..]}` |
| bytes, long int | `{"bytes": hexadecimal}`, `{"int": hexadecimal}` |
| infinite float, NaN | `{"float": "inf"}` |
| complex, range | `{"complex": [real, imaginary]}`, `{"range": [..]}` |
| Decimal, Fraction | `{"decimal": text}`, `{"fraction": text}` |

Invariants:
- Decoding builds values of these types and nothing else: no code of whoever wrote the JSON ever runs.
- Equal values have equal JSON, but that 1, 1.0 and True stay what they are and a dict keeps its order.
- Of a subclass counts what it holds (a `Counter` is a dict, a named tuple a tuple); its methods have no say.

Standard library only: sealed children import it.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Iterable
from decimal import Decimal
from fractions import Fraction
from types import GeneratorType
from typing import Any

MAX_DEPTH = 40
"""Of a value; of its JSON three times as much."""
SHORT_BITS = 10_000
"""Longer integers are hexadecimal: Python refuses to read so many decimal digits."""

_ITERATORS: tuple[type[Any], ...] = (
    GeneratorType,
    map,
    filter,
    zip,
    enumerate,
    reversed,
    itertools.chain,
    itertools.islice,
    *map(type, (iter(()), iter([]), iter({}), iter(set()), iter(""), iter(range(0)))),
)
_VIEWS: tuple[type[Any], ...] = (type({}.keys()), type({}.values()), type({}.items()))
TYPES = frozenset(
    {
        "tuple",
        "set",
        "frozenset",
        "iterator",
        "dict",
        "bytes",
        "int",
        "float",
        "complex",
        "decimal",
        "fraction",
        "range",
    }
)
_SEQUENCES: dict[str, type[Any]] = {"tuple": tuple, "set": set, "frozenset": frozenset}


class NoValue(TypeError):
    """The value holds something that has no JSON here, or the JSON is no value's."""


def encode(value: Any, depth: int = 0) -> Any:  # noqa: PLR0911 -- one return a type
    """`value` as what `json.dumps` takes.

    Raises:
        NoValue: it holds an object of another type, or is nested deeper than `MAX_DEPTH`.
    """
    kind = type(value)
    if value is None or kind is bool:
        return value
    if depth > MAX_DEPTH:
        raise NoValue(f"nested deeper than {MAX_DEPTH}")

    def all_of(items: Iterable[Any]) -> list[Any]:
        return [encode(item, depth + 1) for item in items]

    if issubclass(kind, str):
        return str.__str__(value)
    if issubclass(kind, int):
        number = int.__pos__(value)
        return number if number.bit_length() <= SHORT_BITS else {"int": hex(number)}
    if issubclass(kind, float):
        real = float.__pos__(value)
        return real if math.isfinite(real) else {"float": str(real)}
    if issubclass(kind, list):
        return all_of(list.__iter__(value))
    if issubclass(kind, tuple):
        return {"tuple": all_of(tuple.__iter__(value))}
    for name, several in (("set", set), ("frozenset", frozenset)):
        if issubclass(kind, several):
            return {name: sorted(all_of(several.__iter__(value)), key=json.dumps)}
    if issubclass(kind, dict):
        keys = list(dict.keys(value))
        if all(type(key) is str for key in keys) and not (len(keys) == 1 and keys[0] in TYPES):
            return {key: encode(item, depth + 1) for key, item in dict.items(value)}
        return {"dict": [[encode(key, depth + 1), encode(item, depth + 1)] for key, item in dict.items(value)]}
    return _encode_rare(value, kind, depth, all_of)


def _encode_rare(value: Any, kind: type[Any], depth: int, all_of: Any) -> Any:  # noqa: PLR0911 -- one return a type
    if issubclass(kind, bytes | bytearray):
        return {"bytes": bytes(value).hex()}
    if issubclass(kind, complex):
        return {"complex": [encode(complex.__pos__(value).real), encode(complex.__pos__(value).imag)]}
    if kind is Decimal:
        return {"decimal": str(value)}
    if kind is Fraction:
        return {"fraction": f"{value.numerator}/{value.denominator}"}
    if kind is range:
        return {"range": [encode(part) for part in (value.start, value.stop, value.step)]}
    if kind in _VIEWS:
        return {"iterator": all_of(value)}
    if kind in _ITERATORS:
        return {"iterator": all_of(value)}
    numpy = sys.modules.get("numpy")
    if numpy is not None and issubclass(kind, numpy.generic):
        return encode(value.item(), depth)
    raise NoValue(f"holds a {kind.__name__}")


def decode(data: Any) -> Any:  # noqa: PLR0911, PLR0912 -- one return a type
    """The value whose JSON `data` is.

    Raises:
        NoValue: it is no value's.
    """
    if data is None or isinstance(data, bool | int | float | str):
        return data
    if isinstance(data, list):
        return [decode(item) for item in data]
    if not isinstance(data, dict):
        raise NoValue(f"a {type(data).__name__} is no JSON")
    name: str
    content: Any
    name, content = next(iter(data.items()), ("", None))
    if len(data) != 1 or name not in TYPES:
        return {key: decode(item) for key, item in data.items()}
    try:
        if name in _SEQUENCES:
            return _SEQUENCES[name](decode(item) for item in content)
        match name:
            case "dict":
                return {decode(key): decode(item) for key, item in content}
            case "iterator":
                return iter([decode(item) for item in content])
            case "bytes":
                return bytes.fromhex(content)
            case "int":
                return int(content, 16)
            case "float":
                return float(content)
            case "complex":
                return complex(*(decode(part) for part in content))
            case "decimal":
                return Decimal(content)
            case "fraction":
                return Fraction(content)
            case "range":
                return range(*(decode(part) for part in content))
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        raise NoValue(f"no {name}: {error}") from error
    raise AssertionError(name)
