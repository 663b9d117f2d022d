"""What Prometheus sees of generation."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

TOKENS = Counter("pmd_rollout_tokens_total", "Completion tokens drawn", ["run"])
BATCH_ROWS = Histogram(
    "pmd_rollout_batch_rows", "Completions drawn side by side", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
)
GENERATE_SECONDS = Histogram(
    "pmd_rollout_generate_seconds", "Time of one batch", buckets=(0.05, 0.1, 0.2, 0.5, 1, 2, 5, 15, 60, 300, 1800)
)
LOAD_SECONDS = Histogram(
    "pmd_rollout_load_seconds", "Time to check and load weights", ["how"], buckets=(0.02, 0.05, 0.2, 1, 5, 30, 120, 600)
)
LOADED_VERSION = Gauge("pmd_rollout_loaded_version", "Policy version in memory", ["run"])
