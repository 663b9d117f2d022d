"""SDPO: self-distillation from what the batch itself says (arXiv 2601.20802); PMD without its memory.

Credit: each token is credited by how likely the teacher, an average of the student's past weights, finds it. Loss:
`distill`, the divergence from student to teacher on the student's own tokens. Teacher: sees a passed sibling's
solution, else the feedback on the rollout's own attempt; a rollout with neither teaches nothing.
"""

from __future__ import annotations

from pmd.gateway.recipes.methods.method import Method

METHOD = Method(loss="distill")
