"""A training step: batch, objectives, teacher, engine."""
