"""What the judges' zygote imports and runs once, so that no child pays for it: libraries, parsers, their caches."""

from __future__ import annotations

import logging

from pmd.services.verifier.workers import math_worker, schema_worker

EXAMPLES = (
    (r"\frac{1}{2}", "0.5"),
    ("x^2+1", "1+x^2"),
    (r"\{1, 2\}", r"2, 1"),
    ("(1, 2)", "(1,2)"),
    ("[0, 1)", r"0 \le x < 1"),
    (r"2\sqrt{3}", r"\sqrt{12}"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{bmatrix}1\\2\end{bmatrix}"),
    (r"\sin(x) + \log_2 8 + \pi", r"\pi + 3 + \sin x"),
    (r"\text{blue}", "red"),
    (r"50\%", r"10^{\circ}"),
)

logging.disable()
for gold, answer in EXAMPLES:
    math_worker.judge(gold, answer)
schema_worker.judge(
    {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"type": "string"}}}, {}
)
