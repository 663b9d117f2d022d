"""Engines: what draws completions from a policy version. `Engine` is all that the service knows of one.

Invariants of every engine (tests/rollout/test_engine_contract.py):
- A completion comes from exactly the version that its request names, and says so (Law 9).
- A row's tokens follow from its policy, its prompt, its seed and its stream; not from the rows beside it.
- Log-probs are the sampler's own, at its temperature, of the tokens that it drew.
- What can't be loaded is refused whole: no version, or another's, is ever served in its place.
- A model in memory is the one that its trainer published: what it says of a fixed text is compared with the trainer's
  own log-probs (`pmd.services.common.probe`) before anybody draws from it (Law 13).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from pmd.services.common.wire import Message, Policy, Sampling
from pmd.services.rollout.completion import Completion, Row

Drawn = Callable[[Mapping[int, Completion]], None]
"""Told of finished rows, by their place among those asked for; what it raises ends the work."""


Said = Callable[[int, Sequence[int]], None]
"""Told of the next tokens of a row, by its place, while it is drawn. From another thread, and quickly done."""


def forget(_: Mapping[int, Completion]) -> None:
    """Told of finished rows by who waits for all of them."""


class Engine(Protocol):
    """Loads policies and draws completions; safe to call from several threads."""

    side_by_side: bool
    """Whether calls of `generate` go on together; else one after another, and rows are better asked for in one call."""

    def details(self) -> dict[str, Any]:
        """What `/readyz` says of the engine: its name, device and dtype at least.

        Raises:
            NotReady: it can't draw now; the message says why.
        """
        ...

    def loaded(self) -> dict[str, int]:
        """The version that is in memory of each run."""
        ...

    def load(self, policy: Policy) -> None:
        """Have `policy` in memory.

        Raises:
            ArtifactError: when its folder is missing or differs from its manifest, or the model in memory is not it.
        """
        ...

    def release(self, run: str) -> None:
        """Let go of what is in memory of a run. It is loaded again when somebody asks for it."""
        ...

    def render(
        self, policy: Policy, conversations: Sequence[Sequence[Message]], thinking: bool = False
    ) -> tuple[list[tuple[int, ...]], int]:
        """Prompt ids of each conversation by the policy's chat template, and its context window in tokens.

        Args:
            thinking: whether the model may think before it answers; templates without such a switch ignore it.
        """
        ...

    def generate(
        self,
        policy: Policy,
        rows: Sequence[Row],
        sampling: Sampling,
        check: Callable[[], None],
        drawn: Drawn = forget,
        said: Said | None = None,
    ) -> list[Completion]:
        """Draw one completion per row, in the order of `rows`.

        Args:
            check: called again and again while rows are drawn; what it raises ends the work.
            drawn: told of each row once, when it is finished. To draw the others later, in another call, gives what
                this call would have given.
            said: told of tokens as they are drawn; None when nobody listens.

        Raises:
            ArtifactError: when the policy has to be loaded and can't be.
            DivergedError: when the policy's logits are not finite.
            Retryable: when the same call may succeed later.
        """
        ...

    def as_text(self, policy: Policy, token_ids: Sequence[int]) -> str:
        """Tokens that follow one another as text, without special tokens."""
        ...

    def tokens_as_text(self, policy: Policy, token_ids: Sequence[int]) -> list[str]:
        """Each token of a completion as text, special tokens included."""
        ...

    def close(self) -> None:
        """End what it runs outside this process. Nothing is asked of it afterwards."""
        ...
