"""Batched sampling from a transformers causal language model.

Invariants:
- A log-prob is log_softmax(logits / T) of the chosen token, T the sampling temperature: the sampler's
  distribution before top-p cuts it, which is what the trainer recomputes. At temperature 0 the choice is greedy
  and the log-prob is that of T = 1.
- Each row draws from its own counter-based stream (seed, stream) by inverse CDF: its tokens depend on its prompt
  and its stream alone, not on its neighbours, up to floating-point rounding of the logits. The same batch gives
  the same tokens, bit for bit, on the same hardware.
- Memory holds the logits of one step, never of all steps.

Prompts are left-padded and prefilled once however many rows share them; rows that have ended leave the batch and
the cache, so that a few long rows cost little.

Axes: P prompts, B rows, A rows still in the batch, T positions, S completion tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel

from pmd.services.common.wire import Sampling
from pmd.services.rollout.completion import DivergedError, Row
from pmd.services.rollout.engines.transformers.decode import decoding_cache, decoding_mask

DRAWS = 64
"""Uniform numbers that are drawn ahead per row."""

COMPACT_BELOW = 7 / 8
"""Ended rows leave the batch when fewer than this share is still alive: a copy of the cache must pay off."""


@dataclass(frozen=True)
class Drawn:
    """One completion: ids (the end token included), their log-probs in nats, and whether it ended by itself."""

    token_ids: list[int]
    logprobs: list[float]
    stopped: bool


class Streams:
    """Uniform numbers in [0, 1), one counter-based stream per row."""

    def __init__(self, rows: Sequence[Row], device: torch.device) -> None:
        mask = 2**64 - 1
        self._streams = [
            np.random.Generator(np.random.Philox(key=[row.seed & mask, row.stream & mask])) for row in rows
        ]
        self._device = device
        self._block_BS = torch.empty(0)

    def at(self, step: int, active_A: torch.Tensor) -> torch.Tensor:
        """Number `step` of each active row's stream; steps must come in order."""
        if step % DRAWS == 0:
            block = np.stack([stream.random(DRAWS, dtype=np.float32) for stream in self._streams])
            self._block_BS = torch.from_numpy(block).to(self._device)
        return self._block_BS[active_A, step % DRAWS]


def draw(logits_AV: torch.Tensor, uniform_A: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose one token per row; returns the tokens and their log-probs (see the module's invariants)."""
    logits_AV = logits_AV.float()
    if sampling.temperature == 0:
        token_A = logits_AV.argmax(-1)
        return token_A, logits_AV.log_softmax(-1).gather(1, token_A[:, None])[:, 0]
    logprobs_AV = (logits_AV / sampling.temperature).log_softmax(-1)
    probs_AV = logprobs_AV.exp()
    if sampling.top_p < 1:
        probs_AV = nucleus(probs_AV, sampling.top_p)
    cdf_AV = probs_AV.cumsum(-1)
    # right=True: the first token whose cumulative mass exceeds the target, so a token of mass 0 is never chosen.
    token_A1 = torch.searchsorted(cdf_AV, uniform_A[:, None] * cdf_AV[:, -1:], right=True)
    # Only logits that are not finite get past the end; `sample` reports them by their log-prob.
    token_A1.clamp_(max=logits_AV.shape[1] - 1)
    return token_A1[:, 0], logprobs_AV.gather(1, token_A1)[:, 0]


def nucleus(probs_AV: torch.Tensor, top_p: float) -> torch.Tensor:
    """`probs_AV` with mass 0 outside the smallest set of likeliest tokens that holds `top_p`; not renormalised."""
    sorted_AV, order_AV = torch.sort(probs_AV, dim=-1, descending=True, stable=True)
    before_AV = sorted_AV.cumsum(-1) - sorted_AV
    # The likeliest token stays even when top_p is smaller than the rounding of `before_AV`.
    dropped_AV = before_AV >= top_p
    dropped_AV[:, 0] = False
    return probs_AV.scatter(1, order_AV, sorted_AV.masked_fill(dropped_AV, 0.0))


def prefill(
    model: PreTrainedModel, prompts: Sequence[tuple[int, ...]], tokens: int, check: Callable[[], None]
) -> tuple[list[DynamicCache], torch.Tensor, torch.Tensor]:
    """Run the prompts, at most `tokens` padded tokens a forward pass.

    Returns:
        Caches whose rows, one after another, are the prompts; mask_PT, True where a position holds a prompt token;
        logits_PV after the last token.
    """
    width = max(map(len, prompts))
    ids_PT = torch.tensor([[0] * (width - len(ids)) + list(ids) for ids in prompts], device=model.device)
    mask_PT = torch.tensor([[i >= width - len(ids) for i in range(width)] for ids in prompts], device=model.device)
    position_PT = (mask_PT.cumsum(1) - 1).clamp_(min=0)
    share = max(1, tokens // width)
    caches, logits = [], []
    for part in (slice(begin, begin + share) for begin in range(0, len(prompts), share)):
        check()
        cache = DynamicCache(config=model.config)
        output = model(
            input_ids=ids_PT[part],
            attention_mask=mask_PT[part],
            position_ids=position_PT[part],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        caches.append(cache)
        logits.append(output.logits[:, -1])
    return caches, mask_PT, torch.cat(logits)


@torch.inference_mode()
def sample(
    model: PreTrainedModel,
    rows: Sequence[Row],
    sampling: Sampling,
    *,
    ends: Collection[int],
    prefill_tokens: int,
    check: Callable[[], None],
    said: Callable[[int, Sequence[int]], None] | None = None,
) -> list[Drawn]:
    """Draw one completion per row, all side by side.

    Args:
        ends: token ids that end a completion.
        prefill_tokens: most padded prompt tokens of one forward pass.
        check: called before every forward pass; what it raises ends the sampling.
        said: told of each token as it is drawn, with the place of its row.

    Raises:
        DivergedError: when the logits are not finite.
    """
    device = model.device
    prompts = list(dict.fromkeys(row.prompt_ids for row in rows))
    place = {prompt: i for i, prompt in enumerate(prompts)}
    prompt_of_B = torch.tensor([place[row.prompt_ids] for row in rows], device=device)
    caches, mask_PT, logits_PV = prefill(model, prompts, prefill_tokens, check)
    cache = decoding_cache(caches, prompt_of_B)
    width = mask_PT.shape[1]

    B, S = len(rows), sampling.max_tokens
    streams = Streams(rows, device)
    ends_E = torch.tensor(sorted(ends), dtype=torch.long, device=device)
    tokens_BS = torch.zeros((B, S), dtype=torch.int32, device=device)
    logprobs_BS = torch.zeros((B, S), device=device)
    length_B = torch.zeros(B, dtype=torch.long, device=device)
    stopped_B = torch.zeros(B, dtype=torch.bool, device=device)

    active_A = torch.arange(B, device=device)
    alive_A = torch.ones(B, dtype=torch.bool, device=device)
    logits_AV = logits_PV[prompt_of_B]
    position_A = mask_PT.sum(1)[prompt_of_B]
    seen_BT = torch.cat([mask_PT[prompt_of_B], mask_PT.new_ones((B, S))], dim=1)
    mask = decoding_mask(model, cache, seen_BT)
    for step in range(S):
        token_A, logprob_A = draw(logits_AV, streams.at(step, active_A), sampling)
        tokens_BS[active_A, step] = token_A.int()
        logprobs_BS[active_A, step] = logprob_A
        length_B[active_A] += alive_A  # an ended row that is still in the batch grows no more
        if said is not None:
            for row, token, grows in zip(active_A.tolist(), token_A.tolist(), alive_A.tolist(), strict=True):
                if grows:
                    said(row, [token])
        alive_A = alive_A & ~torch.isin(token_A, ends_E)
        stopped_B[active_A] = ~alive_A
        alive = int(alive_A.sum())
        if alive == 0 or step + 1 == S:
            break
        if alive < COMPACT_BELOW * len(active_A):
            kept = alive_A.nonzero()[:, 0]
            active_A, alive_A = active_A[kept], alive_A[kept]
            token_A, position_A, mask = token_A[kept], position_A[kept], mask[kept]
            cache.batch_select_indices(kept)
        check()
        output = model(
            input_ids=token_A[:, None],
            attention_mask=mask[..., : width + step + 1],
            position_ids=position_A[:, None],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits_AV = output.logits[:, -1]
        position_A = position_A + 1

    drawn = [
        Drawn(tokens[:length], logprobs[:length], stopped)
        for tokens, logprobs, length, stopped in zip(
            tokens_BS.tolist(), logprobs_BS.tolist(), length_B.tolist(), stopped_B.tolist(), strict=True
        )
    ]
    if not all(np.isfinite(row.logprobs).all() for row in drawn):
        raise DivergedError
    return drawn
