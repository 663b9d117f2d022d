"""Jobs: what each kind asks for and what it answers.

Invariants:
- A request names all that its job depends on: bulk data by `Ref`, what a service keeps by `run` or `bank`.
- An artifact has the schema that its field is called after (`rollouts`: `columns.ROLLOUTS`) or that the field's
  docstring names. A job writes its own at `out`.
"""

from __future__ import annotations

from pydantic import Field

from pmd.services.common.options import (
    AbstractSettings,
    ContextSettings,
    Contradictions,
    EvidenceKind,
    NotesFormat,
    PromptFiles,
    QualitySettings,
    ReflectSettings,
    TrainSettings,
)
from pmd.services.common.strict import Strict
from pmd.services.common.wire import MAX_SAMPLES, Outcome, Policy, Ref, Sampling, Slug, Weights


class GenerateRequest(Strict):
    """Rollout job `generate`: draw `n` completions of each prompt. Result: `GenerateResult`."""

    policy: Policy
    prompts: Ref
    """Artifact of schema `PROMPTS`."""
    ids: list[str] | None = None
    """Only these prompts, in this order; None means all."""
    n: int = Field(ge=1, le=MAX_SAMPLES)
    sampling: Sampling
    thinking: bool = False
    """Whether the chat template lets the model think before it answers, where it has such a switch."""
    seed: int
    out: str
    """URI of the artifact to write (schema `ROLLOUTS`)."""


class GenerateResult(Strict):
    rollouts: Ref
    tokens: int
    """Completion tokens drawn."""
    truncated: int
    """Rollouts that ended by length."""
    repetition: float | None = None
    """Mean over rollouts of the share of their 4-grams that occurred in them before; null in records older than this
    field."""
    dtype: str = ""
    """Precision of the weights that drew them, in torch's word; empty in records older than this field."""
    replicas: dict[str, tuple[str, ...]] = {}
    """Prompt ids by the replica that drew them; empty where one service drew all."""


class PublishRequest(Strict):
    """Rollout job `publish`: load these weights and serve them as the run's policy. Result: the `Policy`."""

    policy: Policy


class VerifyRequest(Strict):
    """Verifier job `verify`: judge every rollout. Result: `VerifyResult`."""

    rollouts: Ref
    problems: Ref
    """Artifact of schema `PROBLEMS`."""
    out: str
    """URI of the artifact to write (schema `VERDICTS`)."""


class SplitScore(Strict):
    """Scores of one split; rollouts with `infra_error` are left out of all of them and counted apart."""

    problems: int
    rollouts: int
    pass_rate: float
    """avg@n: mean over problems of the share of their rollouts that passed."""
    pass_at: dict[int, float]
    """pass@k by the unbiased estimator 1 - C(n-c,k)/C(n,k), for k = 1, 2, 4, .. up to n."""
    reward: float | None = None
    """Mean over problems of their rollouts' mean reward; null in records older than this field."""


class VerifyResult(Strict):
    verdicts: Ref
    outcomes: dict[Outcome, int]
    splits: dict[str, SplitScore]


class MemoryCounts(Strict):
    """Size of a bank at one `seq`."""

    seq: int
    experience: int
    insight: int
    behavior: int
    edits: int = 0
    """Changes by people that take effect with the step that a job began."""


class Judged(Strict):
    """What a model was asked about pairs of notes (`memory.contradictions: model`)."""

    asked: int
    """Pairs; none is asked about twice."""
    apart: int
    """Of these, the pairs of which one note is enough: they contradict each other, or say the same."""
    unread: int
    """Pairs whose answer was neither yes nor no, twice."""
    waiting: int
    """Pairs beyond the most that a step asks about."""


class WriteResult(MemoryCounts):
    """The bank after a job that asks a model for notes, and what became of the model's answers."""

    asked: int = 0
    """Prompts that the model was asked."""
    refused: int = 0
    """Prompts that it did not take, mostly for their length."""
    unusable: int = 0
    """Prompts whose answer could not be read, twice; they changed nothing."""
    dropped: dict[str, int] = {}
    """What was written and not kept, by reason: lines outside the notes, notes that no attempt bears out."""
    examples: list[str] = []
    """A few of the unusable answers and of what was dropped, each behind its reason."""
    unconstrained: str | None = None
    """Why answers were not held to their schema: what the model's server said of `response_format`."""
    judged: Judged | None = None
    """`reflect`, where a model says which notes contradict each other."""


class RecordRequest(Strict):
    """Memory job `record`: write a step's rollouts and verdicts as experience. Result: `MemoryCounts`."""

    bank: Slug
    step: int
    rollouts: Ref
    verdicts: Ref
    problems: Ref
    keep_attempts: int = Field(default=16, ge=1)
    """Experience kept per problem; older attempts are retired."""
    quality: QualitySettings = QualitySettings()
    outcomes: Ref | None = None
    """Verdicts on what was drawn from teacher contexts: what notes are measured by."""
    outcomes_step: int | None = None
    """The step of those contexts."""


class ImportRequest(Strict):
    """Memory job `import`: fill a run's bank from an exported one, before the run's first step. Result: `Imported`."""

    bank: Slug
    file: Ref
    """The export (JSON lines), as it was frozen when the run was created."""


class Imported(MemoryCounts):
    """The bank after it was filled."""

    origin: str
    """The bank that the export is of."""
    model: str | None
    """The model of that bank's run, if the export says."""


class Generator(Strict):
    """Who writes reflections and behaviors: a model behind an OpenAI-compatible `/v1/chat/completions`."""

    base_url: str | None = None
    """None means the rollout service of this installation."""
    model: str
    sampling: Sampling = Sampling(temperature=0.7, max_tokens=256)
    seed: int = 0
    format: NotesFormat = "json"


class ReflectRequest(Strict):
    """Memory job `reflect`: refresh the insight of each problem from its attempts. Result: `WriteResult`."""

    bank: Slug
    step: int
    policy_version: int
    problem_ids: list[str]
    base_pass_rate: float = Field(default=0.0, ge=0.0, lt=1.0)
    """How often attempts of this bank pass whatever they do: notes are credited with what goes beyond."""
    generator: Generator
    settings: ReflectSettings
    evidence: EvidenceKind = "effect"
    contradictions: Contradictions = "words"
    quality: QualitySettings = QualitySettings()
    prompts: PromptFiles


class AbstractRequest(Strict):
    """Memory job `abstract`: cluster insights and write the behaviors they share. Result: `WriteResult`."""

    bank: Slug
    step: int
    policy_version: int
    generator: Generator
    settings: AbstractSettings
    excerpt_chars: int = Field(default=1500, ge=16)
    """Head of an attempt that says which approach it took."""
    evidence: EvidenceKind = "effect"
    quality: QualitySettings = QualitySettings()
    prompts: PromptFiles


class RetrieveRequest(Strict):
    """Memory job `retrieve`: render one teacher context per rollout (or per problem). Result: `RetrieveResult`.

    With `rollouts`, in-batch context (a sibling's solution, else feedback) is added, and there is one context
    per rollout. Without, there is one context per problem in `problem_ids`, from memory alone: this is what
    `memory_agent` puts into its prompt.
    """

    bank: Slug | None
    """None: no memory at all, only in-batch context (`sdpo`)."""
    problems: Ref
    problem_ids: list[str] | None = None
    rollouts: Ref | None = None
    verdicts: Ref | None = None
    step: int
    base_pass_rate: float = Field(default=0.0, ge=0.0, lt=1.0)
    """How often attempts of this bank pass whatever they do: notes are credited with what goes beyond."""
    settings: ContextSettings
    evidence: EvidenceKind = "effect"
    quality: QualitySettings = QualitySettings()
    trial: bool = True
    """Whether chance may hold notes out, to learn what they are worth."""
    prompts: PromptFiles
    out: str
    """URI of the artifact to write (schema `CONTEXTS`)."""


class RetrieveResult(Strict):
    contexts: Ref
    seq: int
    """The bank's `seq` that the contexts were rendered from; 0 without a bank."""
    with_context: int
    """Contexts that say more than the problem itself."""
    items_used: dict[str, int]
    """How many contexts show an item of each level, and how many a demonstration or feedback."""
    left_out: int = 0
    """Contexts that do not show a note which a person stands behind; their column `left_out` says which, and why."""
    edits: int = 0
    """Changes by people that take effect with this step."""
    index: str | None = None
    """The index that was searched by meaning; None when the settings ask for no such search."""
    degraded: bool = False
    """The configured index was out of reach, and the embedded one answered in its place."""


class TrainRequest(Strict):
    """Trainer job `train`: one policy update; publishes the next version. Result: `TrainResult`."""

    run: Slug
    step: int
    base: Weights
    """Version 0: where the run starts; the optimizer and teacher state of the run live with the trainer."""
    from_version: int
    rollouts: Ref
    verdicts: Ref
    contexts: Ref | None = None
    """Teacher contexts (schema `CONTEXTS`); None for methods without a teacher."""
    masked_problems: tuple[str, ...] = ()
    """Problems left out of the loss (lead gate: their memory misled a student that knew better)."""
    lr_scale: float = Field(default=1.0, ge=0.0, le=1.0)
    settings: TrainSettings
    thinking: bool = False
    """As the rollouts were drawn: the teacher reads its context behind the same generation prompt."""
    seed: int
    last: bool = False
    """No step follows: the job process and its checkpoints end with it, and what they held of the machine is free."""
    superseded: tuple[int, ...] = ()
    """Versions of the run that nobody needs any more: their folders are removed once the new one is there."""
    out: str
    """URI of the folder under which version folders are written."""


class TrainResult(Strict):
    weights: Weights
    metrics: dict[str, float]
    """loss, grad_norm, lr, tokens, masked, mismatch_kl (sampler against trainer), entropy, seconds."""
    mismatch: dict[str, float] = {}
    """`mismatch_kl` by problem id; of those that were trained on."""
    taught: Ref | None = None
    """What the teacher held of each token (schema `TAUGHT`); None where no teacher taught."""
