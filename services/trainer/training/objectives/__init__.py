"""Training objectives as pure functions over tensors.

Axes: N completion tokens of a micro-batch, V vocabulary, K the student's most likely tokens, C categories of a
distribution (V, K, or K and a tail), S sequences.

An objective gives one loss per token. What a token counts for (its share of the batch's mean) is a weight that
is fixed before the batch is cut into micro-batches, so that neither the cut nor the number of ranks changes
the loss.

A loss is one file that ends with its `LOSS`; adding one is that file, a word of `options.Loss` and a line here. What
goes with any loss is none: a weight of a problem's tokens (`problems`), and terms that are added (`reference`,
`entropy`).
"""

from __future__ import annotations

from collections.abc import Mapping

from pmd.services.common import options
from pmd.services.trainer.training.objectives import blend, distill, grpo, likelihood
from pmd.services.trainer.training.objectives.loss import Loss, Scores, Tokens

LOSSES: Mapping[options.Loss, Loss] = {
    "distill": distill.LOSS,
    "grpo": grpo.LOSS,
    "blend": blend.LOSS,
    "likelihood": likelihood.LOSS,
}


def needs_teacher(settings: options.TrainSettings) -> bool:
    """Whether a run keeps the teacher's weights: to read contexts with them, or as a reference."""
    return LOSSES[settings.loss].reads_teacher or settings.reference_kl > 0


__all__ = ["LOSSES", "Loss", "Scores", "Tokens", "needs_teacher"]
