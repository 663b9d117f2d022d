"""What the gateway answers about runs: the API's values, also what the report and the command line draw from."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pmd.gateway.recipes.datasets.records import BadRecord
from pmd.gateway.recipes.inputs import Parent, StartBank
from pmd.gateway.recipes.methods import MethodName
from pmd.services.common.requests import MemoryCounts, SplitScore
from pmd.services.common.strict import Strict
from pmd.services.common.wire import Split, Weights


class RunStatus(StrEnum):
    """`queued -> running <-> paused`, and the ends `succeeded`, `failed`, `cancelled`."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class PhaseView(Strict):
    """One service call within a step."""

    name: str
    status: str
    attempt: int
    seconds: float | None = None
    error: str | None = None


class LatestView(Strict):
    """The newest numbers of a run, each of the newest step that recorded it; what was not recorded is left out."""

    pass_rate: float | None = None
    """Share of the training rollouts that passed."""
    reward: float | None = None
    """Mean reward of the training rollouts."""
    infra_error_share: float | None = None
    """Of the training rollouts."""
    lead: float | None = None
    """Pass rate with the teacher's context minus without."""
    health: dict[str, float] = {}
    """Signs of the health of learning, as of a step."""
    train: dict[str, float] = {}
    """Metrics of the training step: loss, mismatch_kl, entropy, grad_norm, lr, masked, skipped and more."""
    accuracy: dict[str, float] = {}
    """By split."""


class RunView(Strict):
    """A run as it stands."""

    id: str
    name: str
    method: MethodName
    model: str | None = None
    """What the base model is: its folder, or `owner/name@commit` of the hub."""
    parent: Parent | None = None
    """The run that it was forked from."""
    dataset: str | None = None
    """Data set of the hub that its problems are from, as `owner/name@commit`."""
    status: RunStatus
    step: int
    """Steps that are complete."""
    steps: int
    """Steps that the recipe asks for."""
    version: int
    """Policy version in force."""
    created: float
    """Unix seconds."""
    updated: float
    error: str | None = None
    """Why it failed, or why an alarm paused it."""
    waiting: str | None = None
    """What the run waits for, and why; it goes on by itself when that is there."""
    waiting_since: float | None = None
    """Unix seconds."""
    warnings: list[str] = []
    """What people should know of it, an end in success included; the newest of each kind of alarm."""
    phases: list[PhaseView] = []
    """Of the step in progress."""
    latest: LatestView | None = None
    """Where one run is asked for."""


class StepView(Strict):
    """What one step recorded. Step 0 holds only the evaluation of the base model."""

    step: int
    version: int
    """Policy version that drew the rollouts."""
    pass_rate: float | None = None
    """Share of the training rollouts that passed, as a mean over problems."""
    outcomes: dict[str, int] = {}
    reward: float | None = None
    """Mean reward of the training rollouts, as a mean over problems."""
    tokens: int | None = None
    """Completion tokens of the training rollouts."""
    truncated: int | None = None
    """Training rollouts that ended by length."""
    probe_pass_rate: float | None = None
    """Pass rate of the policy with its teacher context; minus `pass_rate` it is the teacher's lead."""
    lead: float | None = None
    """The gate's reading after this step: running mean of teacher minus student, on the probed problems."""
    lr_scale: float | None = None
    memory: MemoryCounts | None = None
    notes: dict[str, int] = {}
    """What became of the answers of the model that writes notes: prompts `asked`, `refused` and `unusable`, and by
    reason what was `dropped: ..`; pairs of notes that were `judged`, and those of them that are kept `apart`. Examples
    are in the results of the jobs."""
    contexts: dict[str, int] = {}
    train: dict[str, float] = {}
    health: dict[str, float] = {}
    """Signs of the health of learning that `alarms` has bounds for: length, truncated_share, repetition,
    infra_error_share, masked_share, grad_norm, entropy, mismatch_kl, lead."""
    with_memory: dict[str, SplitScore] = {}
    """Of step 0 of a run that begins with a bank: scores of the base model as the teacher that reads it, of the same
    problems and as many answers as `evaluation`."""
    evaluation: dict[str, SplitScore] = {}
    """Memory-free scores by split (for `memory_agent`: with its memory), of the version after this step."""
    seconds: dict[str, float] = {}
    """By phase."""


class PhaseTime(Strict):
    """One attempt of a phase, with when it was."""

    step: int
    name: str
    service: str
    attempt: int
    status: Literal["submitted", "succeeded", "failed", "cancelled", "cleared"]
    submitted: float
    """Unix seconds."""
    ended: float | None
    """Unix seconds; None while it is in progress."""
    seconds: float | None = None
    """What its service worked on it, waiting left out; None of an attempt that has not succeeded."""
    error: str | None = None


class RunCurve(Strict):
    """How the scores of a run moved: what a small picture of it is drawn from."""

    run: str
    pass_rate: list[tuple[int, float]] = []
    """Step and share of its training rollouts that passed."""
    accuracy: dict[str, list[tuple[int, float]]] = {}
    """By split: step and score of its evaluation."""


class DiskUse(Strict):
    """What a run takes of the storage."""

    bytes: int
    files: int
    by_folder: dict[str, int]
    """Bytes by the folders of the run: `steps`, `weights`, `problems` and more."""


class MemoryEvent(Strict):
    """What people did to a run's memory, as the run's log has it."""

    ts: float
    """Unix seconds."""
    step: int | None
    """The step with which changes took effect; of a deletion None."""
    edits: int
    """Changes that took effect; 0 for a deletion."""
    deleted_by: str | None = None
    """Who deleted the bank; None where it was not."""
    while_status: RunStatus | None = None
    """What the run was when its bank was deleted."""


class ReportView(Strict):
    """Everything that a report of a run is drawn from."""

    run: RunView
    recipe: dict[str, Any]
    steps: list[StepView]
    start: StartBank | None = None
    """The bank that the run began with."""
    memory_events: list[MemoryEvent] = []
    """Oldest first."""
    memory_samples: dict[str, list[str]] = {}
    """A few items of each level, as the model wrote them."""


class CheckpointView(Strict):
    """A published policy version that can be exported or talked to."""

    step: int
    weights: Weights
    evaluation: dict[str, SplitScore] = {}


class EventView(Strict):
    """One line of a run's log; `seq` resumes the stream."""

    seq: int
    ts: float
    type: str
    """run.created, run.desired, run.status, run.waiting, run.waited, run.ended, run.alarm, problems.left_out,
    problems.too_long, phase.submitted, phase.succeeded, phase.failed, memory.edited,
    memory.deleted, step.completed"""
    payload: dict[str, Any]


class ServiceView(Strict):
    """One service as the gateway sees it."""

    name: str
    url: str
    ready: bool
    details: dict[str, Any] = {}
    """Its `/readyz`: profile and versions in force."""
    error: str | None = None


class DownloadView(Strict):
    """A model or data set of the hub on its way to the gateway's machine."""

    kind: Literal["model", "dataset"]
    name: str
    """`owner/name@commit`."""
    status: Literal["downloading", "ready"]
    bytes: int = 0
    """What has come, of what was not here before."""
    total_bytes: int = 0
    """In all of that, as far as known."""


class PlannedPhase(Strict):
    """One phase of a dry run."""

    name: str
    service: str
    kind: str
    """Kind of the job that does it."""


class ValidatedRecipe(Strict):
    """A recipe that can run, and what its first steps do."""

    recipe: dict[str, Any]
    """With every default filled in."""
    start: StartBank | None = None
    """The bank that the run would begin with; its file is not written yet."""
    steps: int
    problems: dict[Split, int] = {}
    """Problems by split."""
    bad_records: int = 0
    """Records of problem files that are wrong and would be left out."""
    bad_examples: list[BadRecord] = []
    """The first of them."""
    model: str | None = None
    """What `model` leads to: its folder, or `owner/name@commit` of the hub; null when no hub answered."""
    warnings: list[str] = []
    """What may go wrong with this model."""
    estimate: list[str] = []
    """Memory, disk and hours, and how they were worked out; empty where the model's sizes are not known."""
    missing: list[dict[str, str]] = []
    """What must be here before the run can start: `field` and `message`."""
    too_long: int = 0
    """Train problems whose prompt is too long to be trained on."""
    long_examples: list[str] = []
    """The first of them."""
    phases: dict[int, list[PlannedPhase]]
    """Of steps 0 and 1."""
