"""Generation with versioned weights: the jobs `generate` and `publish`, and an OpenAI-compatible chat route.

Invariant: importing this package never imports torch; only the engines need it, and `service` loads the one that is
chosen in the background.
"""
