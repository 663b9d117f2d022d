"""GRPO: policy gradient on rewards that a group is compared by; the baseline without self-distillation.

Credit: each token of a rollout gets the rollout's advantage, its reward minus the mean reward of its group, so a group
of one has none. Loss: `grpo`, the clipped policy gradient, which reads those advantages. Teacher: none.
"""

from __future__ import annotations

from pmd.gateway.recipes.methods.method import Method

METHOD = Method(loss="grpo", smallest_group=2)
