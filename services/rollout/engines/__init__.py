"""Engines: what draws completions from a policy version. `Engine` is all that the service knows of one.

Invariants of every engine (tests/rollout/test_engine_contract.py):
- A completion comes from exactly the version that its request names, and says so (Law 9).
- A row's tokens follow from its policy, its prompt, its seed and its stream; not from the rows beside it.
- Log-probs are the sampler's own, at its temperature, of the tokens that it drew.
- What can't be loaded is refused whole: no version, or another's, is ever served in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from pmd.services.common.wire import Message, Policy, Sampling
from pmd.services.rollout.completion import Completion, Row


class Engine(Protocol):
    """Loads policies and draws completions; safe to call from several threads."""

    def facts(self) -> dict[str, Any]:
        """What `/readyz` says of the engine: its name, device and dtype at least."""
        ...

    def loaded(self) -> dict[str, int]:
        """The version that is in memory of each run."""
        ...

    def load(self, policy: Policy) -> None:
        """Have `policy` in memory.

        Raises:
            ArtifactError: when its folder is missing or differs from its manifest.
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
        self, policy: Policy, rows: Sequence[Row], sampling: Sampling, check: Callable[[], None]
    ) -> list[Completion]:
        """Draw one completion per row, in the order of `rows`.

        Args:
            check: called again and again while rows are drawn; what it raises ends the work.

        Raises:
            ArtifactError: when the policy has to be loaded and can't be.
            DivergedError: when the policy's logits are not finite.
            Retryable: when the same call may succeed later.
        """
        ...

    def tokens_as_text(self, policy: Policy, token_ids: Sequence[int]) -> list[str]:
        """Each token of a completion as text, special tokens included."""
        ...
