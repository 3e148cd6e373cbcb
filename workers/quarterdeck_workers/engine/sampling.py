"""Choosing the next token of each sequence.

Each sequence has a random generator of its own on the CPU, so what it draws depends neither on
the other sequences of the batch nor on the device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch

from quarterdeck_workers.engine.interface import Sampling, TokenLogprob


def generator_for(sampling: Sampling, index: int) -> torch.Generator:
    """A generator for one sequence. Sequences of one seeded request draw differently, and each
    draws the same again when the request is repeated."""
    generator = torch.Generator(device="cpu")
    if sampling.seed is None:
        generator.seed()
    else:
        generator.manual_seed((sampling.seed * 1_000_003 + index) % 2**63)
    return generator


def penalised(logits: torch.Tensor, sampling: Sampling, generated: Counter[int]) -> torch.Tensor:
    """OpenAI's penalties on generated tokens: logit - frequency·count - presence·[count > 0].

    `logits` has shape [vocabulary]; a new tensor is returned where anything changes.
    """
    if not generated or (sampling.presence_penalty == 0 and sampling.frequency_penalty == 0):
        return logits
    ids = torch.tensor(list(generated.keys()), device=logits.device)
    counts = torch.tensor(list(generated.values()), dtype=logits.dtype, device=logits.device)
    penalty = sampling.frequency_penalty * counts + sampling.presence_penalty
    return logits.index_add(0, ids, -penalty)


def probabilities(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """The distribution to draw from: temperature, then top-k, then top-p (nucleus: the smallest
    set of most likely tokens whose mass reaches `top_p`). Shape [vocabulary], float32."""
    scaled = (logits - logits.max()) / max(sampling.temperature, 1e-5)
    ordered, order = torch.sort(scaled.float(), descending=True, stable=True)
    if 0 < sampling.top_k < ordered.numel():
        ordered[sampling.top_k :] = float("-inf")
    chances = torch.softmax(ordered, dim=-1)
    if sampling.top_p < 1.0:
        before = torch.cumsum(chances, dim=-1) - chances
        outside = before >= sampling.top_p
        outside[0] = False  # a tiny `top_p` is 0 in float32: the likeliest token is never cut
        chances = chances.masked_fill(outside, 0.0)
        chances = chances / chances.sum()
    return torch.zeros_like(chances).scatter(0, order, chances)


def choose(
    logits: torch.Tensor,
    samplings: Sequence[Sampling],
    generators: Sequence[torch.Generator],
    generated: Sequence[Counter[int]],
) -> list[int | None]:
    """The next token of each row of `logits` [batch, vocabulary]; None where a row is not
    finite, so that broken weights end one sequence with an error instead of the whole batch."""
    finite = torch.isfinite(logits).all(dim=-1).tolist()
    greedy = logits.argmax(dim=-1).tolist()
    tokens: list[int | None] = []
    for row, sampling in enumerate(samplings):
        if not finite[row]:
            tokens.append(None)
            continue
        penalties = sampling.presence_penalty != 0 or sampling.frequency_penalty != 0
        if sampling.temperature == 0 and not penalties:
            tokens.append(int(greedy[row]))
            continue
        own = penalised(logits[row].float(), sampling, generated[row])
        if sampling.temperature == 0:
            tokens.append(int(own.argmax().item()))
            continue
        chances = probabilities(own, sampling).cpu()
        drawn = torch.multinomial(chances, 1, generator=generators[row])
        tokens.append(int(drawn.item()))
    return tokens


def logprobs_of(logits: torch.Tensor, token: int, alternatives: int) -> TokenLogprob:
    """Log-probabilities of the chosen token and of the likeliest ones; `logits` [vocabulary]."""
    logs = torch.log_softmax(logits.float(), dim=-1)
    top: tuple[tuple[int, float], ...] = ()
    if alternatives > 0:
        values, ids = torch.topk(logs, min(alternatives, logs.numel()))
        top = tuple(zip((int(i) for i in ids.tolist()), values.tolist(), strict=True))
    return TokenLogprob(token_id=token, logprob=float(logs[token].item()), top=top)
