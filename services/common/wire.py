"""Wire types: the words of the design as data.

Small values travel as JSON (pydantic, unknown keys refused). Bulk data travel by reference: a `Ref` points
at a Parquet artifact whose columns are one of the schemas at the end of this module. Token ids and the
sampler's log-probs are the truth of a rollout; its text is a convenience.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field

from services.common.strict import Strict

Slug = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
"""An identifier that is safe in a path, a URL and a database key."""

Split = Literal["train", "test", "unseen"]
"""train: practised. test: new problems of known families. unseen: combinations that never occur in train."""

Level = Literal["experience", "insight", "behavior"]
"""experience: raw attempts of a problem. insight: strategies and lessons of a problem. behavior: rules
across problems."""


class Message(Strict):
    """One chat turn."""

    role: Literal["system", "user", "assistant"]
    content: str


class Problem(Strict):
    """A verifiable task. The verifier spec holds the expected answer and never leaves for a policy."""

    id: Slug
    messages: list[Message] = Field(min_length=1)
    verifier: dict[str, Any]
    """`kind` (exact, choice, code) and what that kind needs; the verifier service validates it."""
    domain: str = ""
    split: Split = "train"

    def question(self) -> str:
        """The last user turn: what teacher contexts and reflection quote."""
        return next(m.content for m in reversed(self.messages) if m.role == "user")


class Outcome(StrEnum):
    """What a verdict says. Only `infra_error` is our fault: it is retried, then masked from the loss (Law 5)."""

    PASSED = "passed"
    FAILED = "failed"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    OUTPUT_LIMIT = "output_limit"
    FORMAT = "format"
    INFRA_ERROR = "infra_error"


class Verdict(Strict):
    """A verifier's judgement of one completion."""

    outcome: Outcome
    reward: float = Field(ge=0.0, le=1.0)
    feedback: str = ""
    sandbox_tier: str = ""
    """Isolation in force when untrusted code ran; empty for kinds that run none."""
    cpu_ms: float = 0.0
    error: str = ""
    """Cause of an `infra_error`, for the operator; no model ever sees it."""


class Ref(Strict):
    """A pointer to an immutable artifact, checked by its hash when it is read."""

    uri: str
    sha256: str
    bytes: int
    rows: int = 0


class Weights(Strict):
    """A published policy version: an ordinary Hugging Face folder whose manifest was written last."""

    version: int = Field(ge=0)
    uri: str
    """Folder with config, tokenizer and safetensors."""
    sha256: str
    """Hash of `manifest.json`, which lists every other file with its own hash."""


class Sampling(Strict):
    """How completions are drawn."""

    temperature: float = Field(default=1.0, ge=0.0, le=5.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    max_tokens: int = Field(default=512, ge=1, le=131072)
    """Longest completion, in tokens."""


class Policy(Strict):
    """Which weights must answer: a run's policy at one version."""

    run: Slug
    weights: Weights

    @property
    def model(self) -> str:
        """The name under which `/v1/chat/completions` serves exactly this version."""
        return f"{self.run}@{self.weights.version}"


# ---------------------------------------------------------------- settings that recipes hold and jobs carry


class PromptFiles(Strict):
    """Prompt templates (Jinja) by content, so that a recipe in execution is complete."""

    teacher: str
    reflect: str
    abstract: str


class ReflectSettings(Strict):
    """How attempts become an insight."""

    attempts_per_outcome: int = Field(default=2, ge=1, le=8)
    """Newest passed and newest failed attempts that are shown."""
    excerpt_chars: int = Field(default=1500, ge=16)
    """Head of an attempt that is shown, cut at a line end."""
    max_notes: int = Field(default=2, ge=1, le=8)
    """Strategies, and lessons, kept per problem (fixed budget: merge and replace, never append)."""


class QualitySettings(Strict):
    """Controls of what memory keeps and shows. What people hold is exempt from all but the leak guard."""

    duplicates: bool = True
    """A new note that differs from a standing one in case, spacing or final stop only is that one."""
    near_duplicates: float | None = Field(default=None, gt=0.0, le=1.0)
    """The same for notes with at least this share of terms in common; null: off."""
    leak_guard: bool = True
    """Notes that give an answer away are quarantined and never shown. Off is an ablation: it breaks Law 3."""
    stale_after: int | None = Field(default=None, ge=1)
    """Steps without confirmation after which a note is retired; null: never."""
    max_notes: int | None = Field(default=None, ge=1)
    """Insights and behaviors that a bank keeps active; null: no bound."""
    hold_out: float = Field(default=0.0, ge=0.0, le=0.5)
    """Chance that a chosen note is left out of a problem's contexts, to measure what it is worth."""
    quarantine: bool = False
    """Quarantine notes that lower the reward beyond reasonable doubt. Needs `hold_out`."""


class AbstractSettings(Strict):
    """How insights become behaviors."""

    clustering: Literal["terms", "embeddings"] = "embeddings"
    """terms: overlapping clusters of problems that share a term (frequent-term clustering, Beil et al. 2002).
    embeddings: agglomerative, average cosine."""
    min_support: int = Field(default=3, ge=2)
    """Distinct problems whose insights must agree with a behavior."""
    min_purity: float = Field(default=0.6, ge=0.0, le=1.0)
    """Share of a cluster's insights that must agree with a behavior."""
    max_insights: int = Field(default=12, ge=3, le=64)
    """Insights shown to the model per cluster."""
    max_behaviors: int = Field(default=2, ge=1, le=8)
    """Behaviors kept per cluster."""
    distance: float = Field(default=0.6, gt=0.0, le=2.0)
    """Cosine distance at which `embeddings` clusters are cut."""


class RetrievalSettings(Strict):
    """How behaviors are found for a problem."""

    k: int = Field(default=3, ge=0, le=64)
    """Behaviors retrieved per problem."""
    min_similarity: float = Field(default=0.1, ge=-1.0, le=1.0)
    """Behaviors, and insights found by meaning, less similar to the problem than this (cosine) are not shown."""
    by_meaning: tuple[Literal["insight", "behavior"], ...] = ()
    """Levels that are also searched by meaning and words, each for up to `k` more notes: strategies of problems that
    ask the like, behaviors whatever their topic. Empty: a problem's own insights, and behaviors by topic."""
    alpha: float = Field(default=0.5, ge=0.0, le=1.0)
    """Weight of meaning against words in that search: 1 is cosine alone, 0 is BM25 alone."""


class ContextRules(Strict):
    """How a teacher context is put together."""

    demonstrations: Literal["any", "same_plan", "none"] = "any"
    """Which passed sibling may be shown in full: any, only one that took the same approach, or none."""
    feedback: Literal["without_solution", "always", "never"] = "without_solution"
    """When the rollout's own feedback is shown."""
    conflicts: Literal["resolve", "show"] = "resolve"
    """resolve: of two notes that contradict each other only the more credible one is shown."""
    max_chars: int = Field(default=6000, ge=0)
    """Longest memory block; whole notes are dropped from the end, never cut in the middle."""


class ContextSettings(ContextRules, RetrievalSettings):
    """What a teacher sees besides the problem."""

    levels: tuple[Level, ...] = ("insight", "behavior")
    excerpt_chars: int = Field(default=1500, ge=16)
    """Head of an attempt that says which approach it took; also what the experience level shows of it."""
    transient: bool = False
    """Only memory written in this very step is shown (ablation)."""


class OptimizerSettings(Strict):
    """The optimizer, the divergence and the clips."""

    lr: float = Field(gt=0.0)
    warmup_steps: int = Field(default=0, ge=0)
    weight_decay: float = Field(default=0.01, ge=0.0)
    grad_clip: float = Field(default=1.0, gt=0.0)
    mini_batches: int = Field(default=1, ge=1)
    """Optimizer steps per training step; each takes an equal share of the problems."""
    micro_tokens: int = Field(default=32768, ge=1)
    """Padded tokens per forward pass."""
    alpha: float = Field(default=0.5, ge=0.0, le=1.0)
    """Divergence: 0 forward KL(T||S), 1 reverse KL(S||T), between: generalised Jensen-Shannon."""
    top_k: int | None = Field(default=None, ge=1)
    """Distil on the student's top-k tokens; None means the full vocabulary."""
    tail: bool = True
    """With top_k: one extra bucket for the rest of the vocabulary, else renormalise over the k."""
    is_clip: float = Field(default=2.0, gt=0.0)
    """Upper clip of the importance ratio exp(logp_now - logp_old)."""
    tis_clip: float = Field(default=2.0, gt=0.0)
    """Upper clip of the trainer-to-sampler probability ratio, per token."""
    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float = 3.0
    max_prompt_tokens: int = Field(default=2048, ge=1)
    max_teacher_tokens: int = Field(default=10240, ge=1)
    """Longest teacher prompt; a longer one is cut inside its memory block, never at its closing request."""
    precision: Literal["fp32", "bf16"] = "fp32"
    zero_stage: Literal[0, 1, 2, 3] = 0
    checkpoint_every: int = Field(default=1, ge=1)
    """Steps between optimizer checkpoints; steps after the last one are replayed on recovery."""


class TrainSettings(OptimizerSettings):
    """The objective and the optimizer of one run."""

    objective: Literal["distill", "grpo"]
    temperature: float = Field(default=1.0, gt=0.0)
    """The sampling temperature; logits of student and teacher are divided by it."""
    teacher_ema: float = Field(default=0.05, ge=0.0, le=1.0)
    """Teacher update rate u: teacher = (1-u) teacher + u student, once per step."""


# ---------------------------------------------------------------- job requests, one per kind of job


class GenerateRequest(Strict):
    """Rollout job `generate`: draw `n` completions of each prompt. Result: `GenerateResult`."""

    policy: Policy
    prompts: Ref
    """Artifact of schema `PROMPTS`."""
    ids: list[str] | None = None
    """Only these prompts, in this order; None means all."""
    n: int = Field(ge=1, le=1024)
    sampling: Sampling
    seed: int
    out: str
    """URI of the artifact to write (schema `ROLLOUTS`)."""


class GenerateResult(Strict):
    rollouts: Ref
    tokens: int
    """Completion tokens drawn."""
    truncated: int
    """Rollouts that ended by length."""


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


class Generator(Strict):
    """Who writes reflections and behaviors: a model behind an OpenAI-compatible `/v1/chat/completions`."""

    base_url: str | None = None
    """None means the rollout service of this installation."""
    model: str
    sampling: Sampling = Sampling(temperature=0.7, max_tokens=256)
    seed: int = 0


class ReflectRequest(Strict):
    """Memory job `reflect`: refresh the insight of each problem from its attempts. Result: `MemoryCounts`."""

    bank: Slug
    step: int
    policy_version: int
    problem_ids: list[str]
    generator: Generator
    settings: ReflectSettings
    quality: QualitySettings = QualitySettings()
    prompts: PromptFiles


class AbstractRequest(Strict):
    """Memory job `abstract`: cluster insights and write the behaviors they share. Result: `MemoryCounts`."""

    bank: Slug
    step: int
    policy_version: int
    generator: Generator
    settings: AbstractSettings
    excerpt_chars: int = Field(default=1500, ge=16)
    """Head of an attempt that says which approach it took."""
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
    settings: ContextSettings
    quality: QualitySettings = QualitySettings()
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
    seed: int
    out: str
    """URI of the folder under which version folders are written."""


class TrainResult(Strict):
    weights: Weights
    metrics: dict[str, float]
    """loss, grad_norm, lr, tokens, masked, mismatch_kl (sampler against trainer), entropy, seconds."""


# ---------------------------------------------------------------- bulk data, as Parquet columns

PROBLEMS = pa.schema(
    [
        ("problem_id", pa.string()),
        ("split", pa.string()),
        ("domain", pa.string()),
        ("messages", pa.string()),  # JSON of [Message]
        ("verifier", pa.string()),  # JSON of the verifier spec
    ]
)

PROMPTS = pa.schema(
    [
        ("prompt_id", pa.string()),  # unique in the artifact; the problem id, or the rollout a context is for
        ("problem_id", pa.string()),
        ("split", pa.string()),
        ("messages", pa.string()),  # JSON of [Message]
    ]
)

ROLLOUTS = pa.schema(
    [
        ("rollout_id", pa.string()),  # "<prompt_id>#<sample>", unique in the artifact
        ("prompt_id", pa.string()),
        ("problem_id", pa.string()),
        ("split", pa.string()),
        ("sample", pa.int32()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("token_ids", pa.list_(pa.int32())),  # with the end token when finish_reason is "stop"
        ("logprobs", pa.list_(pa.float32())),  # of the sampler, at its temperature, one per token id
        ("text", pa.string()),  # without special tokens
        ("finish_reason", pa.string()),  # stop | length
        ("policy_version", pa.int64()),  # of every token of this rollout
    ]
)

VERDICTS = pa.schema(
    [
        ("rollout_id", pa.string()),
        ("problem_id", pa.string()),
        ("split", pa.string()),
        ("outcome", pa.string()),
        ("reward", pa.float32()),
        ("feedback", pa.string()),
        ("sandbox_tier", pa.string()),
        ("cpu_ms", pa.float32()),
        ("error", pa.string()),  # cause of an infra_error
    ]
)

CONTEXTS = pa.schema(
    [
        ("prompt_id", pa.string()),  # the rollout this context is for, or the problem (memory_agent)
        ("problem_id", pa.string()),
        ("split", pa.string()),
        ("messages", pa.string()),  # JSON of [Message]: what the teacher is asked
        ("has_context", pa.bool_()),  # false: the messages are the student's own; masked from distillation
        ("items", pa.string()),  # JSON of [{id, version, level, text, score, credibility, reason, sources}]
        ("demonstration", pa.string()),  # rollout id of the sibling shown, or null
        ("feedback", pa.bool_()),  # whether the rollout's own feedback is shown
        ("seq", pa.int64()),  # of the bank when it was read
    ]
)
"""A CONTEXTS artifact is a PROMPTS artifact with more columns, so it can be generated from (`probe`)."""
