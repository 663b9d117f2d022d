"""What Prometheus sees of the verifier: the queue, the sandbox, the verdicts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

VERDICTS = Counter("pmd_verdicts_total", "Verdicts given", ["kind", "outcome"])
PENDING = Gauge("pmd_verify_pending", "Completions that wait for a verdict")
PENDING_BYTES = Gauge("pmd_verify_pending_bytes", "Bodies of the requests that are being answered")
REFUSED = Counter("pmd_verify_refused_total", "Requests refused before they were read", ["status"])

RUNNING = Gauge("pmd_sandbox_running", "Programs that run now")
MEMORY = Gauge("pmd_sandbox_memory_reserved_bytes", "What running programs may take together, by their limits")
WAIT_SECONDS = Histogram(
    "pmd_sandbox_wait_seconds",
    "From a program's turn to its start: memory and a worker",
    buckets=(0.001, 0.005, 0.02, 0.1, 0.5, 2, 10, 60),
)
RUN_SECONDS = Histogram(
    "pmd_sandbox_run_seconds",
    "Wall time of one program on one test",
    ["end"],
    buckets=(0.003, 0.006, 0.012, 0.025, 0.05, 0.1, 0.25, 1, 2.5, 10, 60),
)
CPU_SECONDS = Counter("pmd_sandbox_cpu_seconds_total", "CPU time that programs used")
RESTARTS = Counter("pmd_sandbox_zygote_restarts_total", "Zygotes replaced", ["reason"])
TROUBLE = Counter("pmd_sandbox_trouble_total", "Runs that failed for reasons of ours; each is tried twice")
