"""Generation with versioned weights: the jobs `generate` and `publish`, and an OpenAI-compatible chat route.

Invariant: importing this package never imports torch; only `sampling`, `decode` and `engine` need it, and
`app` loads them in the background.
"""
