"""What a run would take: memory, disk and hours, from the model's sizes and the recipe. Pure arithmetic.

Invariant: each figure is the sum that docs/models.md writes down; what is assumed and not known is a constant below.

P is the number of weights, L those that are trained (of an adapter, or P), W the number of ranks (GPUs), b the bytes of
a weight in the run's precision.
"""

from __future__ import annotations

from dataclasses import dataclass

from pmd.gateway.recipes.models.shape import Shape
from pmd.gateway.recipes.recipe import Recipe

GB = 1e9
PEAK_FLOPS = 989e12
"""Assumed: bf16 operations a second of a GPU (H100, H200; dense, by its data sheet)."""
UTILISATION = 0.3
"""Assumed: share of that which training reaches."""
TOKENS_PER_S = 2500.0
"""Assumed: tokens a second that one GPU samples of a model of 8 billion weights, batches of 256; others in proportion
to their active weights."""
SAMPLED = 0.5
"""Assumed: length of a completion as a share of `max_tokens`."""
PROMPT_TOKENS = 512
"""Assumed: a prompt; a teacher's is as long and a completion besides."""
NOTE_CALLS = 1.2
"""Assumed: notes written per problem and step, by the recipe's generator."""
CHUNK = 1 << 26
"""Logits that the trainer holds at once on a GPU (`services/trainer/training/head.py`)."""
COPIES = 6
"""Bytes a trained weight that DeepSpeed keeps beside an offloaded optimizer: its gradient, in fp32 and in bf16."""
GPU_GB = (80, 141)
"""Memory of the GPUs that a figure is compared with."""


@dataclass(frozen=True)
class Need:
    """What one rank of the trainer holds, in bytes."""

    weights: float
    gradients: float
    optimizer: float
    """Master weights where they are apart, and Adam's two moments."""
    teacher: float
    activations: float
    logits: float
    """Of a chunk, and the gradient of the output embedding, which is added up over chunks."""
    host: float
    """In the machine's own memory (`hardware.offload`); all others are the GPU's."""

    @property
    def parts(self) -> dict[str, float]:
        """What the GPU holds, by name."""
        return {name: value for name, value in vars(self).items() if name != "host"}

    @property
    def total(self) -> float:
        """What the GPU holds."""
        return sum(self.parts.values())


def trained_parameters(shape: Shape, recipe: Recipe) -> int:
    """Weights that are trained: all, or an adapter of rank r, r (inputs + outputs) a matrix. An expert's matrices have
    none, which transformers keeps in one."""
    if recipe.policy.lora is None:
        return shape.parameters
    return recipe.policy.lora.rank * shape.layers * sum(inner + outer for inner, outer in _adapted(shape))


def _adapted(shape: Shape) -> list[tuple[int, int]]:
    """Inputs and outputs of each matrix of a layer that an adapter is beside."""
    query, key, wide = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim, shape.intermediate
    attention = [(shape.hidden, query), (shape.hidden, key), (shape.hidden, key), (query, shape.hidden)]
    return attention + ([(shape.hidden, wide)] * 3 if shape.experts == 1 else [])


def _average(shape: Shape, recipe: Recipe) -> int:
    """Numbers of the teacher's average: as many as the weights have that move, in whichever form they do."""
    if not recipe.keeps_teacher or recipe.teacher.weights != "ema":
        return 0
    if recipe.policy.lora is None:
        return shape.parameters
    return shape.layers * sum(inner * outer for inner, outer in _adapted(shape))


def teacher_bytes(shape: Shape, recipe: Recipe, ranks: int) -> tuple[float, float]:
    """What a rank holds of the teacher's weights: those that it speaks by, of which none is the student's too, and its
    average where that is apart (docs/method.md has the table)."""
    if not recipe.keeps_teacher or recipe.teacher.weights == "live":
        return 0.0, 0.0
    average, bf16 = _average(shape, recipe), recipe.hardware.precision == "bf16"
    own = average if recipe.policy.lora else shape.parameters
    return own * (2.0 if bf16 else 4.0), average * 4 / ranks if bf16 else 0.0


def trainer_need(shape: Shape, recipe: Recipe, ranks: int) -> Need:
    """What each of `ranks` ranks holds while it trains, as `services/trainer` works (the teacher is whole on each)."""
    P, L, hardware = shape.parameters, trained_parameters(shape, recipe), recipe.hardware
    bf16 = hardware.precision == "bf16"
    b, stage = (2, max(hardware.zero_stage, 1)) if bf16 else (4, hardware.zero_stage)
    shards = {level: ranks if stage >= level else 1 for level in (1, 2, 3)}
    tokens = max(min(hardware.micro_tokens, _longest(shape, recipe) * _samples(recipe)), _longest(shape, recipe))
    scored = min(tokens, recipe.sampling.max_tokens * max(1, tokens // _longest(shape, recipe)))
    # Of a chunk, of the student and each model of the teacher: product, logits, log-softmax and softmax; and what the
    # divergence works on.
    voices = recipe.has_teacher + (recipe.has_teacher and recipe.teacher.weights == "trust_region")
    weights = ((P if recipe.policy.lora else 0) + L) * b / shards[3]
    optimizer = L * (12 if bf16 else 8) / shards[1]
    teacher, average = teacher_bytes(shape, recipe, ranks)
    apart = hardware.offload != "none"
    # Inputs that the backward pass of a layer needs: norms, q k v, attention, residual; gate, up and their product.
    layer = tokens * (b * (8 * shape.hidden + 4 * _width(shape)) + 8 * shape.hidden)
    layers = shape.layers * layer
    if hardware.gradient_checkpointing:
        layers = min(layers, shape.layers * tokens * b * shape.hidden + layer)
    return Need(
        weights=weights,
        gradients=L * b / shards[2],
        optimizer=0.0 if apart else optimizer,
        teacher=teacher if apart else teacher + average,
        activations=layers,
        logits=min(scored * shape.vocab, CHUNK) * 4 * 6 * (1 + voices)
        + (0 if recipe.policy.lora else shape.vocab * shape.hidden * 4),
        host=optimizer + average + COPIES * L / shards[1] if apart else 0.0,
    )


def _width(shape: Shape) -> int:
    return shape.intermediate * shape.experts_per_token


def _longest(shape: Shape, recipe: Recipe) -> int:
    """Tokens of the longest student row: a teacher's pass keeps nothing for a backward pass."""
    return min(shape.window, recipe.objective.max_prompt_tokens + recipe.sampling.max_tokens)


def _samples(recipe: Recipe) -> int:
    return recipe.schedule.problems_per_step * recipe.schedule.rollouts_per_problem


def sampler_bytes(shape: Shape, recipe: Recipe, rows: int = 64) -> float:
    """Weights in bf16, and keys and values of `rows` completions side by side."""
    cell = 2 * shape.layers * shape.kv_heads * shape.head_dim * 2
    return shape.parameters * 2 + rows * (PROMPT_TOKENS + SAMPLED * recipe.sampling.max_tokens) * cell


def disk_bytes(shape: Shape, recipe: Recipe) -> float:
    """Weights of the versions that stay, and two checkpoints: one is whole while the next is written."""
    b = 2 if recipe.hardware.precision == "bf16" else 4
    kept = recipe.schedule.keep_weights
    versions = recipe.schedule.steps if kept is None else min(recipe.schedule.steps, kept + 2)
    base = shape.parameters * shape.bytes_per_weight
    if not recipe.trains:
        return base
    trained = trained_parameters(shape, recipe)
    return base + versions * trained * b + 2 * ((b + (12 if b == 2 else 8)) * trained + 4 * _average(shape, recipe))


def hours(shape: Shape, recipe: Recipe, gpus: int, evaluated: int) -> float:
    """Sampling and training one after the other on `gpus` GPUs that do both.

    Args:
        evaluated: problems of the evaluated splits.
    """
    completion = SAMPLED * recipe.sampling.max_tokens
    drawn = recipe.schedule.steps * _samples(recipe) * completion
    if recipe.levels:
        notes = recipe.schedule.steps * recipe.schedule.problems_per_step * NOTE_CALLS
        drawn += notes * SAMPLED * recipe.generator.sampling.max_tokens
    if recipe.lead_gate:
        drawn += recipe.schedule.steps * recipe.schedule.problems_per_step * completion
    rounds = 1 + recipe.schedule.steps // recipe.evaluation.every
    drawn += rounds * evaluated * recipe.evaluation.samples * SAMPLED * recipe.evaluation.sampling.max_tokens
    speed = gpus * TOKENS_PER_S * 8e9 / shape.active_parameters
    read = recipe.schedule.steps * _samples(recipe) * (PROMPT_TOKENS + completion) if recipe.trains else 0
    # The average of an adapter is a product of its own beside the base's.
    twice = recipe.teacher.weights == "trust_region" or (recipe.teacher.weights == "ema" and recipe.policy.lora)
    voices = (2 if twice else 1) if recipe.has_teacher else 0
    # Forward, maybe twice, of the weights, of the inputs; an adapter's own are next to nothing.
    own = (2 if recipe.policy.lora else 3) + recipe.hardware.gradient_checkpointing
    passes = own + voices * (1 + completion / (PROMPT_TOKENS + completion))
    trained = 2 * shape.active_parameters * read * passes / (gpus * PEAK_FLOPS * UTILISATION)
    return (drawn / speed + trained) / 3600


def estimate(shape: Shape, recipe: Recipe, evaluated: int) -> list[str]:
    """The figures in sentences."""
    lines = [
        f"model: {shape.parameters / 1e6:,.1f} million weights, {shape.layers} layers, window {shape.window} tokens",
        f"disk: about {disk_bytes(shape, recipe) / GB:.0f} GB for weights and two checkpoints; rollouts besides",
        _sampler(shape, recipe),
    ]
    for gpus in (1, 8):
        took = f"about {hours(shape, recipe, gpus, evaluated):.1f} hours" if recipe.schedule.steps else "no step"
        if recipe.trains:
            need = trainer_need(shape, recipe, gpus)
            fits = [f"{size} GB" for size in GPU_GB if need.total / GB <= size]
            parts = ", ".join(f"{name} {value / GB:.1f}" for name, value in need.parts.items())
            room = f"fits {' and '.join(fits)}" if fits else f"fits neither {GPU_GB[0]} nor {GPU_GB[1]} GB"
            host = f", and {need.host * gpus / GB:.0f} GB of the machine's own memory" if need.host else ""
            took = f"trainer {need.total / GB:.0f} GB a GPU ({parts}): {room}{host}; {took}"
        lines.append(f"{gpus} GPU{'s' * (gpus > 1)}: {took}")
    lines.append(
        f"assumed: {UTILISATION:.0%} of {PEAK_FLOPS / 1e12:.0f} TFLOP/s in training, {TOKENS_PER_S:.0f} tokens/s a GPU"
        f" of an 8 B model in sampling, completions of {SAMPLED:.0%} of max_tokens, prompts of {PROMPT_TOKENS} tokens;"
        f" {evaluated or 'no'} problems evaluated. None of it was measured here (docs/models.md)"
    )
    return lines


def _sampler(shape: Shape, recipe: Recipe) -> str:
    """What the sampler's weights and one completion take, and how many completions go side by side."""
    weights = sampler_bytes(shape, recipe, rows=0)
    each = sampler_bytes(shape, recipe, rows=1) - weights
    rows = ", ".join(f"{max(0, int((0.9 * size * GB - weights) / each))} in {size} GB" for size in GPU_GB)
    return (
        f"sampler: weights {weights / GB:.1f} GB, {each / GB:.2f} GB a completion; side by side, in nine tenths of a"
        f" GPU: {rows}"
    )


def too_large(shape: Shape, recipe: Recipe, memory: int | None) -> str | None:
    """A warning where what one rank and the sampler hold exceeds the memory of this machine, in bytes."""
    if memory is None:
        return None
    trainer = trainer_need(shape, recipe, 1)
    need = sampler_bytes(shape, recipe, rows=1) + (trainer.total + trainer.host if recipe.trains else 0)
    if need <= memory:
        return None
    return (
        f"model: trainer and sampler together hold about {need / GB:.0f} GB on one rank, and this machine has"
        f" {memory / GB:.0f} GB; they must run elsewhere, on several GPUs (hardware.zero_stage), with less kept"
        " (hardware.gradient_checkpointing), or with a smaller model"
    )
