"""Training objectives as pure functions over tensors.

Axes: N completion tokens of a micro-batch, V vocabulary, K the student's most likely tokens, C categories of a
distribution (V, K, or K and a tail), S sequences.

An objective gives one loss per token. What a token counts for (its share of the batch's mean) is a weight that
is fixed before the batch is cut into micro-batches, so that neither the cut nor the number of ranks changes
the loss.
"""
