"""What every service shares: wire types (`wire`, `options`, `requests`, `columns`), the job protocol, artifacts,
settings, auth, telemetry.

Invariant: nothing here imports torch, vllm or weaviate, or another room of the project.
"""
