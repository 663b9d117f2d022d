"""The trainer: objectives, DeepSpeed jobs, exported weights.

Invariant: importing this package, its app or its launcher imports neither torch nor deepspeed; only the job
process (`pmd.services.trainer.job.job`) and what it uses do.
"""
