"""The four services of the loop (rollout, verifier, memory, trainer) and what they share (common)."""
