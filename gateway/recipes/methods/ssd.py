"""SSD: simple self-distillation, the baseline that needs no verifier (arXiv 2604.01193).

Credit: none; right and wrong completions alike are learnt. Loss: `likelihood` of what was drawn, at temperature 1; what
is learnt is how `sampling` draws otherwise than that. Teacher: none. Verdicts are for the reports: the loss reads none,
and leaves out what could not be judged (Law 5).
"""

from __future__ import annotations

from pmd.gateway.recipes.methods.method import Method

METHOD = Method(loss="likelihood")
