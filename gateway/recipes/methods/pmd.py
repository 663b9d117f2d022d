"""PMD: SDPO whose teacher reads the run's memory too (arXiv 2607.01480).

Credit: each token is credited by how likely the teacher, an average of the student's past weights, finds it. Loss:
`distill`, the divergence from student to teacher on the student's own tokens. Teacher: sees what SDPO's sees, and above
it the behaviors, lessons, earlier attempts and strategies that are kept of the run; the student sees none of it.
"""

from __future__ import annotations

from pmd.gateway.recipes.methods.method import Method

METHOD = Method(loss="distill", memory="teacher")
