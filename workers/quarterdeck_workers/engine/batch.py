"""The key-value caches of all running sequences as one left-padded batch.

Row b holds `lengths[b]` tokens in the last columns; the columns before them are zeros that the
attention mask hides. Positions are counted per row, so padding changes no number that matters.
Sequences enter and leave between steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import DynamicCache

PIECE = 512
"""Prompt tokens computed at once; between the pieces of a long prompt others see it go on."""


class CacheBatch:
    """Left-padded caches: per layer keys and values of shape [rows, heads, columns, width]."""

    def __init__(self, model: Any, piece: int = PIECE) -> None:
        self._model = model
        self._piece = piece
        self._cache = DynamicCache()
        self.lengths: list[int] = []

    @property
    def columns(self) -> int:
        """Tokens of the longest row."""
        return max(self.lengths, default=0)

    def join(
        self, prompt: tuple[int, ...], read: Callable[[int], None] = lambda tokens: None
    ) -> torch.Tensor:
        """Compute a prompt alone, add it as the last row; its last logits, shape [vocabulary].

        `read` hears after each piece how many tokens it had."""
        device = self._model.device
        cache = DynamicCache()
        for start in range(0, len(prompt), self._piece):
            ids = torch.tensor(
                [prompt[start : start + self._piece]], dtype=torch.long, device=device
            )
            end = start + ids.shape[1]
            logits = self._model(
                input_ids=ids,
                attention_mask=torch.ones((1, end), dtype=torch.long, device=device),
                position_ids=torch.arange(start, end, device=device)[None],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[0, -1]
            read(ids.shape[1])
        if not self.lengths:
            self._cache = cache
        else:
            width = max(self.columns, len(prompt))
            for mine, new in zip(_layers(self._cache), _layers(cache), strict=True):
                mine.keys = torch.cat([_widened(mine.keys, width), _widened(new.keys, width)])
                mine.values = torch.cat([_widened(mine.values, width), _widened(new.values, width)])
        self.lengths.append(len(prompt))
        return logits  # type: ignore[no-any-return]

    def step(self, tokens: list[int]) -> torch.Tensor:
        """Feed each row its newest token; the next logits, shape [rows, vocabulary]."""
        device = self._model.device
        lengths = torch.tensor(self.lengths, dtype=torch.long, device=device)
        columns = self.columns
        # The new token is in the last column; a row's own tokens fill the columns before it.
        mask = torch.arange(columns + 1, device=device)[None] >= (columns - lengths)[:, None]
        logits = self._model(
            input_ids=torch.tensor(tokens, dtype=torch.long, device=device)[:, None],
            attention_mask=mask.long(),
            position_ids=lengths[:, None],
            past_key_values=self._cache,
            use_cache=True,
        ).logits[:, -1]
        self.lengths = [length + 1 for length in self.lengths]
        return logits  # type: ignore[no-any-return]

    def keep(self, rows: list[int]) -> None:
        """Drop all rows but these (in this order), and the columns that nobody needs then."""
        if rows == list(range(len(self.lengths))):
            return
        if not rows:
            self._cache, self.lengths = DynamicCache(), []
            return
        self.lengths = [self.lengths[row] for row in rows]
        columns = self.columns
        for layer in _layers(self._cache):
            index = torch.tensor(rows, dtype=torch.long, device=layer.keys.device)
            layer.keys = layer.keys.index_select(0, index)[:, :, -columns:].contiguous()
            layer.values = layer.values.index_select(0, index)[:, :, -columns:].contiguous()


def _layers(cache: DynamicCache) -> list[Any]:
    # Models with other kinds of layers are refused when they are loaded.
    return list(cache.layers)


def _widened(tensor: torch.Tensor, columns: int) -> torch.Tensor:
    missing = columns - tensor.shape[-2]
    return torch.nn.functional.pad(tensor, (0, 0, missing, 0)) if missing else tensor
