"""What a kind of verifier spec is made of; a kind of your own is one of these under an entry point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from pmd.services.common.strict import Strict
from pmd.services.common.wire import Verdict
from pmd.services.verifier.context import Context

S = TypeVar("S", bound=Strict)


@dataclass(frozen=True)
class Kind(Generic[S]):
    """How one kind of spec is judged. All of it runs in the trusted process, so it must end by itself, and soon."""

    spec: type[S]
    """The pydantic model of the spec, `kind` included."""
    answer: Callable[[S, str], str | None]
    """The part of a completion that the verdict depends on: equal answers are judged once."""
    verify: Callable[[S, str, Context], Verdict]
    """The verdict on a completion; what it raises becomes `infra_error`."""
    prove: Callable[[S, Context], str | None] | None = None
    """What is wrong with a spec that only trying it shows, if anything; asked when specs are checked."""
