"""Settings that recipes hold and jobs carry.

Invariants:
- A default stands here, once: recipes and requests hold these classes or derive from them.
- They say how, never on what: no id and no reference. Prompts are held by content, not by path.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from pmd.services.common.strict import Strict
from pmd.services.common.wire import MAX_COUNT, Level

EvidenceKind = Literal["effect", "terms"]
"""What notes are believed by. effect: what contexts that show a note lead to, against those that hold it out.
terms: how attempts that contain a note's terms fared, which fits short formal texts only."""

Contradictions = Literal["words", "model"]
"""Who says which notes contradict each other. words: their words. model: the one that writes notes, by a yes or no on a
few pairs a step; of other pairs their words."""

MAX_NOTE_CHARS = 4000
"""Longest note that anybody may write. The memory block (`ContextRules.max_chars`) has room for one by default, so that
no note is accepted that can never be shown."""

TeacherWeights = Literal["ema", "initial", "live", "trust_region"]
"""Whose weights the teacher has. ema: the moving average of the student's. initial: the base's, for ever. live: the
student's own. trust_region: the base's and the student's, their logits blended."""

Loss = Literal["distill", "grpo", "blend", "likelihood"]
"""distill: towards a teacher that reads a context. grpo: by rewards relative to their group. blend: some of both.
likelihood: of what was drawn, whatever it was worth."""


NotesFormat = Literal["json", "lines"]
"""How notes are asked for and read. json: by a schema, which servers that can hold the model to; other forms are read
too. lines: `Strategy: ..`, `Lesson: ..`, `Behavior: ..`, each note one line, and nothing else."""


class PromptFiles(Strict):
    """Prompt templates (Jinja) by content, so that a recipe in execution is complete."""

    teacher: str
    """What the teacher reads. In a recipe file `prompts` is the folder that holds this and the other two as
    `<name>.jinja`."""
    reflect: str
    """What asks for the strategies and lessons of a problem."""
    abstract: str
    """What asks for the rule that a cluster's strategies share."""


class ReflectSettings(Strict):
    """How attempts become an insight."""

    attempts_per_outcome: int = Field(default=2, ge=1, le=8)
    """Newest passed and newest failed attempts that are shown."""
    excerpt_chars: int = Field(default=1500, ge=16, le=MAX_COUNT)
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
    stale_after: int | None = Field(default=None, ge=1, le=MAX_COUNT)
    """Steps without confirmation after which a note is retired; null: never."""
    max_notes: int | None = Field(default=None, ge=1, le=MAX_COUNT)
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
    min_support: int = Field(default=3, ge=2, le=MAX_COUNT)
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
    """How notes are found for a problem that are not its own."""

    k: int = Field(default=3, ge=0, le=64)
    """Behaviors retrieved per problem."""
    min_similarity: float = Field(default=0.1, ge=-1.0, le=1.0)
    """Attempts shown as turns, and behaviors without a cluster, less similar to the problem than this (cosine) are not
    shown."""
    by_meaning: tuple[Literal["insight", "behavior"], ...] = ("insight", "behavior")
    """Levels that are searched by meaning and words, by the question without its options: strategies of other problems,
    for a problem without a believed one of its own; up to `k` behaviors, those of the problem's cluster first. Without
    insight a problem has its own notes only, without behavior what is found by topic, or by meaning alone where
    `memory.evidence` is effect."""
    foreign: int = Field(default=2, ge=0, le=64)
    """Most strategies of other problems that the search may add to a context."""
    foreign_similarity: float = Field(default=0.6, ge=-1.0, le=1.0)
    """Strategies of other problems, and behaviors of other clusters, that are less similar than this are not shown:
    cosine of the question, and of the note with the question that it was written about. 0.6 is for the `hash` embedder,
    0.45 for all-MiniLM-L6-v2; for another one read it off `pmd memory search` (docs/search.md)."""
    vector_weight: float = Field(default=0.5, ge=0.0, le=1.0)
    """Weight of meaning against words in that search: 1 is cosine alone, 0 is BM25 alone."""


class ContextRules(Strict):
    """How a teacher context is put together."""

    render: Literal["notes", "turns", "both"] = "notes"
    """How memory is shown. notes: as text, by the teacher template. turns: passed attempts at the problems that ask the
    like, as earlier turns of the chat, and no notes. both: those turns before the notes."""
    turns: int = Field(default=4, ge=0, le=64)
    """Most turns that are shown: one for each of the nearest problems that an attempt has passed."""
    demonstrations: Literal["any", "same_plan", "none"] = "any"
    """Which passed sibling may be shown in full: any, only one that took the same approach, or none."""
    feedback: Literal["without_solution", "always", "never"] = "without_solution"
    """When the rollout's own feedback is shown."""
    conflicts: Literal["resolve", "show"] = "resolve"
    """resolve: of two notes that contradict each other only the more credible one is shown."""
    max_chars: int = Field(default=6000, ge=0, le=MAX_COUNT)
    """Longest memory block, in characters, turns with their questions included. Notes are shown whole: one that does
    not fit is left out, which the context's record says, and shorter ones after it are still shown; the notes of people
    are fitted in first."""


class ContextSettings(ContextRules, RetrievalSettings):
    """What a teacher sees besides the problem."""

    levels: tuple[Level, ...] = ("insight", "behavior")
    excerpt_chars: int = Field(default=1500, ge=16, le=MAX_COUNT)
    """Head of an attempt that says which approach it took; also what the experience level shows of it."""
    transient: bool = False
    """Only memory written in this very step is shown (ablation)."""


class ObjectiveSettings(Strict):
    """What is minimised: the divergence, the clips, and how long a prompt may be that counts in it."""

    divergence_alpha: float = Field(default=0.5, ge=0.0, le=1.0)
    """Divergence: 0 forward KL(T||S), 1 reverse KL(S||T), between: generalised Jensen-Shannon."""
    top_k: int | None = Field(default=None, ge=1, le=MAX_COUNT)
    """Distil on the student's top-k tokens; null means the full vocabulary."""
    tail: bool = True
    """With top_k: one extra bucket for the rest of the vocabulary, else renormalise over the k."""
    divergence: Literal["distribution", "sampled_token"] = "distribution"
    """distribution: student and teacher are compared at every token of the vocabulary (or of `top_k`).
    sampled_token: at the one that was drawn, as TRL's SDPO does; needs divergence_alpha 1 and no top_k."""
    teacher_entropy_beta: float = Field(default=0.0, ge=0.0, le=8.0)
    """Distillation counts a token by exp(-beta H), H the teacher's entropy there in nats, over the mean of that (SRPO,
    which has 1). 0: all alike."""
    route: Literal["all", "failed"] = "all"
    """Which rollouts a teacher teaches. failed: those only, as SRPO does; the others, and those without a context, are
    trained by their rewards."""
    reward_share: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of GRPO's loss in that of a rollout which a teacher teaches; the rest is distillation."""
    advantage: Literal["mean", "std"] = "mean"
    """GRPO: reward minus the group's mean. std: that over the group's standard deviation."""
    problem_weights: Literal["equal", "pass_rate"] = "equal"
    """What a problem counts for. pass_rate: sqrt(p (1 - p)) of the share p of its rollouts that passed, over the mean
    of that (SC-SDPO)."""
    reference_kl: float = Field(default=0.0, ge=0.0)
    """Weight of the KL divergence from the teacher's weights, which here read the student's own prompt;
    `teacher.weights: initial` keeps them at the base."""
    entropy_floor: float | None = Field(default=None, gt=0.0)
    """Nats a token: a step after one whose entropy was below is paid for its entropy. null: never."""
    entropy_weight: float = Field(default=0.01, gt=0.0)
    """What it is then paid a nat."""
    is_clip: float = Field(default=2.0, gt=0.0)
    """Upper clip of the importance ratio exp(logp_now - logp_old)."""
    tis_clip: float = Field(default=2.0, gt=0.0)
    """Upper clip of the trainer-to-sampler probability ratio, per token."""
    clip_low: float = Field(default=0.2, ge=0.0, le=1.0)
    """GRPO: a ratio now / old below 1 - clip_low is not rewarded."""
    clip_high: float = Field(default=0.28, ge=0.0)
    """GRPO: a ratio now / old above 1 + clip_high is not rewarded."""
    dual_clip: float = Field(default=3.0, gt=1.0)
    """GRPO: with a negative advantage a token's loss is at most this multiple of it."""
    max_prompt_tokens: int = Field(default=2048, ge=1, le=MAX_COUNT)
    """Longest prompt that is trained on."""
    max_teacher_tokens: int = Field(default=10240, ge=1, le=MAX_COUNT)
    """Longest teacher prompt; a longer one, or one that leaves the completion no room in the model's window, is cut
    inside its memory block, never at its closing request."""

    @model_validator(mode="after")
    def _comparable(self) -> Self:
        if self.divergence == "sampled_token" and (self.divergence_alpha != 1.0 or self.top_k is not None):
            raise ValueError("divergence: sampled_token is a reverse KL; set divergence_alpha: 1 and no top_k")
        return self

    @property
    def reads_rewards(self) -> bool:
        """Whether distillation is blended with GRPO's loss."""
        return self.route == "failed" or self.reward_share > 0


class OptimizerSettings(Strict):
    """How the weights follow the gradient."""

    lr: float = Field(gt=0.0)
    """Learning rate of AdamW."""
    warmup_steps: int = Field(default=0, ge=0, le=MAX_COUNT)
    """Training steps over which the learning rate rises linearly to `lr`."""
    decay: Literal["none", "linear", "cosine"] = "none"
    """How it falls from there, to nothing behind the run's last step; none: it stays."""
    weight_decay: float = Field(default=0.01, ge=0.0)
    """Decoupled weight decay of AdamW."""
    grad_clip: float = Field(default=1.0, gt=0.0)
    """Longest gradient (L2 norm over all weights); a longer one is scaled down to it."""
    mini_batches: int = Field(default=1, ge=1, le=MAX_COUNT)
    """Optimizer steps per training step; each takes an equal share of the samples, of as many problems as possible."""


class LoraSettings(Strict):
    """A low-rank adapter (LoRA) of every linear layer but the output embedding, trained in the place of the weights."""

    rank: int = Field(default=32, ge=1, le=512)
    """Rank of what is added to each matrix. vLLM serves up to 512."""
    alpha: int = Field(default=64, ge=1, le=MAX_COUNT)
    """What is added is scaled by alpha / rank. A rate for LoRA is about ten times that for all weights."""


class HardwareSettings(Strict):
    """What the trainer's machine has room for."""

    micro_tokens: int = Field(default=32768, ge=1, le=MAX_COUNT)
    """Padded tokens per forward pass."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of weights and arithmetic; bf16 keeps fp32 master weights."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """What DeepSpeed shards over the ranks: 1 the optimizer's state, 2 gradients too, 3 weights too."""
    gradient_checkpointing: bool = False
    """Keep a layer's input alone for the backward pass, and compute the layer again there: a third more time, and a
    fraction of the memory for activations. The numbers are the same."""
    offload: Literal["none", "optimizer"] = "none"
    """What is kept, and computed, in the machine's own memory and not the GPU's. optimizer: its state, master weights
    and the teacher's average; needs `zero_stage` 1 or more, or bf16, which implies 1."""
    checkpoint_every: int = Field(default=1, ge=1, le=MAX_COUNT)
    """Steps between optimizer checkpoints; steps after the last one are replayed on recovery."""

    @model_validator(mode="after")
    def _sharded_where_offloaded(self) -> Self:
        if self.offload != "none" and self.zero_stage == 0 and self.precision == "fp32":
            raise ValueError("offload: optimizer needs zero_stage 1 or more, and it is 0")
        return self


class TrainSettings(ObjectiveSettings, OptimizerSettings, HardwareSettings):
    """How one run is trained."""

    loss: Loss
    lora: LoraSettings | None = None
    """Train an adapter of the base; null: all weights."""
    steps: int = Field(default=0, ge=0, le=MAX_COUNT)
    """Training steps of the run, behind which `decay` ends."""
    temperature: float = Field(default=1.0, gt=0.0)
    """The sampling temperature; logits of student and teacher are divided by it."""
    entropy_bonus: float = Field(default=0.0, ge=0.0)
    """What a nat of entropy a token is worth in this step."""
    teacher_weights: TeacherWeights = "ema"
    teacher_ema: float = Field(default=0.05, ge=0.0, le=1.0)
    """u. With ema: teacher = (1-u) teacher + u student, once per step. With trust_region: the student's share."""
