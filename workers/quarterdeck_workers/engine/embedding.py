"""Embeddings from a decoder: mean of the last hidden states over a prompt's tokens, normalised.

Requests wait in a queue of their own and are computed in slices between decoding steps, so that a
large one keeps nobody's tokens waiting for long.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any

import torch

Prompts = list[tuple[int, ...]]


def pooled(model: Any, prompts: Prompts) -> list[list[float]]:
    """One vector of length 1 for each prompt, as wide as the model's hidden states.

    Prompts are padded on the right: a causal model's states do not depend on what follows.
    Raises ValueError when the states are not finite numbers.
    """
    device = model.device
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.zeros((len(prompts), longest), dtype=torch.long)
    mask = torch.zeros((len(prompts), longest), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.tensor(prompt, dtype=torch.long)
        mask[row, : len(prompt)] = 1
    ids, mask = ids.to(device), mask.to(device)
    states = model.base_model(
        input_ids=ids, attention_mask=mask, use_cache=False
    ).last_hidden_state.float()
    weights = mask[..., None].to(states.dtype)
    # Padded places may hold anything, also what is no number: they are cut, not multiplied.
    means = states.masked_fill(weights == 0, 0.0).sum(dim=1) / weights.sum(dim=1)
    vectors = torch.nn.functional.normalize(means, dim=-1)
    if not bool(torch.isfinite(vectors).all()):
        raise ValueError("the model's hidden states are not finite numbers")
    return vectors.cpu().tolist()  # type: ignore[no-any-return]


class EmbeddingJob:
    """The prompts of one request; `future` gets one vector for each, or an error."""

    def __init__(self, prompts: Prompts) -> None:
        self.future: Future[list[list[float]]] = Future()
        self._prompts = prompts
        self._vectors: list[list[float]] = []

    @property
    def left(self) -> Prompts:
        """Those not yet computed."""
        return self._prompts[len(self._vectors) :]

    def add(self, vectors: list[list[float]]) -> None:
        """The vectors of the next prompts."""
        self._vectors += vectors
        if not self.left:
            with suppress(InvalidStateError):
                self.future.set_result(self._vectors)

    def fail(self, error: Exception) -> None:
        """Nothing more will come."""
        with suppress(InvalidStateError):
            self.future.set_exception(error)


class EmbeddingQueue:
    """Jobs in turn, a slice of each. Not safe in several threads: its owner holds a lock."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._jobs: deque[EmbeddingJob] = deque()

    def __len__(self) -> int:
        return len(self._jobs)

    def put(self, job: EmbeddingJob) -> bool:
        """Queue a job; False when there is no place."""
        if len(self._jobs) >= self.most:
            return False
        self._jobs.append(job)
        return True

    def take(self, most_tokens: int) -> tuple[EmbeddingJob, Prompts] | None:
        """A job and its next prompts: one at least, padded together not above `most_tokens`.

        The job goes back to the end of the queue with `put_back` unless it is done.
        """
        while self._jobs:
            job = self._jobs.popleft()
            if job.future.done():  # cancelled
                continue
            prompts: Prompts = []
            longest = 0
            for prompt in job.left:
                longest = max(longest, len(prompt))
                if prompts and longest * (len(prompts) + 1) > most_tokens:
                    break
                prompts.append(prompt)
            return job, prompts
        return None

    def put_back(self, job: EmbeddingJob) -> None:
        """Queue a job again that had its place."""
        self._jobs.append(job)

    def clear(self) -> list[EmbeddingJob]:
        """Take all out."""
        jobs = list(self._jobs)
        self._jobs.clear()
        return jobs
