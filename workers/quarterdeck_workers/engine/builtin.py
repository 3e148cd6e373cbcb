"""The builtin engine: continuous batching on transformers, one thread, one step at a time.

Between two decoding steps the loop lets cancelled sequences go and admits waiting ones in order
of arrival; each prompt is computed alone, then joins the batch. Embeddings take turns with the
steps. One thread touches the model.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

import torch

from quarterdeck_workers.engine.batch import CacheBatch
from quarterdeck_workers.engine.embedding import EmbeddingJob, EmbeddingQueue, pooled
from quarterdeck_workers.engine.interface import (
    EngineBusy,
    EngineDead,
    EngineDraining,
    EngineStats,
    FinishReason,
    SequenceRequest,
    Sink,
    TokenEvent,
)
from quarterdeck_workers.engine.loading import LoadedModel
from quarterdeck_workers.engine.metrics import EngineMetrics
from quarterdeck_workers.engine.sampling import choose, generator_for, logprobs_of
from quarterdeck_workers.engine.text import Detokenizer, StopStrings
from quarterdeck_workers.engine.weights import load_weights

_log = logging.getLogger(__name__)
_FAILED_STEPS = 3
_UPDATE_TIMEOUT = 600.0


@dataclass(frozen=True)
class EngineLimits:
    """Bounds of an engine. Tokens and sequences are counts, times seconds.

    `max_cache_tokens` bounds rows × columns of the padded cache, counted with what each sequence
    may still generate. `stall_after` is how long one step may take before the engine counts as
    dead.
    """

    max_model_len: int
    max_batch_size: int = 16
    max_waiting: int = 64
    max_prompt_tokens_per_step: int = 4096
    max_cache_tokens: int | None = None
    stall_after: float = 120.0

    @property
    def cache_tokens(self) -> int:
        return self.max_cache_tokens or self.max_batch_size * self.max_model_len


@dataclass(eq=False)
class _Sequence:
    request: SequenceRequest
    sink: Sink
    ticket: _Ticket
    detokenizer: Detokenizer
    stops: StopStrings
    generator: torch.Generator
    submitted: float
    last_token_at: float = 0.0
    tokens: list[int] = field(default_factory=list)
    counts: Counter[int] = field(default_factory=Counter)

    @property
    def reach(self) -> int:
        """Tokens it may occupy in the end."""
        return len(self.request.prompt) + self.request.sampling.max_tokens


class _Ticket:
    def __init__(self, wake: threading.Condition) -> None:
        self._wake = wake
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True
        with self._wake:
            self._wake.notify()


class BuiltinEngine:
    """See `interface.Engine`, `interface.Embedder` and `interface.WeightReceiver`."""

    def __init__(self, loaded: LoadedModel, limits: EngineLimits, metrics: EngineMetrics) -> None:
        self.max_model_len = limits.max_model_len
        self.vocabulary = loaded.vocabulary
        self.embedding_width = int(loaded.model.get_input_embeddings().embedding_dim)
        self._loaded = loaded
        self._limits = limits
        self._metrics = metrics
        self._wake = threading.Condition()
        self._waiting: deque[_Sequence] = deque()
        self._embeddings = EmbeddingQueue(limits.max_waiting)
        self._running: list[_Sequence] = []
        self._batch = CacheBatch(loaded.model)
        self._update: tuple[Path, Future[None]] | None = None
        self._draining = False
        self._stopping = False
        self._failed_steps = 0
        self._generated = 0
        self._step_began: float | None = None
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)

    def start(self) -> None:
        """Start the loop's thread."""
        self._thread.start()

    # --- any thread ----------------------------------------------------------------------------

    def submit(self, sequences: Sequence[SequenceRequest], sink: Sink) -> _Ticket:
        """Queue all sequences or none. Raises EngineBusy, EngineDraining or EngineDead."""
        ticket = _Ticket(self._wake)
        now = time.monotonic()
        new = [
            _Sequence(
                request=request,
                sink=sink,
                ticket=ticket,
                detokenizer=Detokenizer(self._loaded.decode),
                stops=StopStrings(request.sampling.stop),
                generator=generator_for(request.sampling, request.index),
                submitted=now,
            )
            for request in sequences
        ]
        with self._wake:
            self._check_open()
            if len(self._waiting) + len(new) > self._limits.max_waiting:
                raise EngineBusy(
                    f"{len(self._waiting)} sequences wait already and {len(new)} more do not fit "
                    f"into the waiting queue of {self._limits.max_waiting}",
                    retry_after=1.0,
                )
            self._waiting.extend(new)
            self._metrics.waiting.set(len(self._waiting))
            self._wake.notify()
        return ticket

    def embed(self, prompts: list[tuple[int, ...]]) -> Future[list[list[float]]]:
        """See `interface.Embedder`."""
        job = EmbeddingJob(prompts)
        with self._wake:
            self._check_open()
            if not self._embeddings.put(job):
                raise EngineBusy(
                    f"{self._embeddings.most} requests for embeddings wait already",
                    retry_after=1.0,
                )
            self._wake.notify()
        return job.future

    def _check_open(self) -> None:
        if not self._thread.is_alive():
            raise EngineDead("the engine's loop has ended")
        if self._draining or self._stopping:
            raise EngineDraining("this replica is being stopped", retry_after=1.0)

    def stats(self) -> EngineStats:
        """Sequences running and waiting, tokens generated."""
        with self._wake:
            return EngineStats(len(self._running), len(self._waiting), self._generated)

    def alive(self) -> bool:
        """The loop's thread lives and its present step does not last too long."""
        began = self._step_began
        stalled = began is not None and time.monotonic() - began > self._limits.stall_after
        return self._thread.is_alive() and not stalled

    def drain(self) -> None:
        """Take nothing new; what was taken goes on."""
        with self._wake:
            self._draining = True

    def stop(self) -> None:
        """End the loop; sequences that still run finish with `cancelled`."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join(timeout=self._limits.stall_after)

    def update_weights(self, folder: Path) -> None:
        """See `interface.WeightReceiver`: waits for running sequences, admits none meanwhile."""
        done: Future[None] = Future()
        with self._wake:
            if self._update is not None:
                raise ValueError("another update of the weights is under way: wait for it")
            self._update = (folder, done)
            self._wake.notify()
        done.result(timeout=_UPDATE_TIMEOUT)

    # --- the loop's thread ---------------------------------------------------------------------

    def _loop(self) -> None:
        with torch.inference_mode():
            while True:
                with self._wake:
                    while not (
                        self._running or self._waiting or self._embeddings or self._update
                        or self._stopping
                    ):  # fmt: skip
                        self._wake.wait()
                    if self._stopping:
                        break
                self._step_began = time.monotonic()
                try:
                    self._tick()
                    self._failed_steps = 0
                except Exception as error:
                    _log.exception("a step of the engine failed")
                    self._fail_running(f"{type(error).__name__}: {error}")
                    self._failed_steps += 1
                    if self._failed_steps >= _FAILED_STEPS:
                        break
                finally:
                    self._step_began = None
        with self._wake:
            self._stopping = True
            left = [*self._running, *self._waiting]
            self._waiting.clear()
            self._running = []
            update, self._update = self._update, None
            jobs = self._embeddings.clear()
        for job in jobs:
            job.fail(EngineDead("the engine stopped before the embeddings were computed"))
        if update is not None:
            update[1].set_exception(EngineDead("the engine stopped before the weights changed"))
        for sequence in left:
            _emit(sequence, TokenEvent(sequence.request.index, None, "", None, "cancelled"))

    def _tick(self) -> None:
        self._release([s for s in self._running if s.ticket.cancelled], "cancelled")
        if self._update is None:
            self._admit()
        elif not self._running:
            self._apply_update()
        self._embed()
        if self._running:
            logits = self._batch.step([sequence.tokens[-1] for sequence in self._running])
            self._take(self._running, logits)
        self._metrics.running.set(len(self._running))
        self._metrics.waiting.set(len(self._waiting))
        held = len(self._running) * self._batch.columns
        self._metrics.cache_usage.set(held / self._limits.cache_tokens)

    def _embed(self) -> None:
        with self._wake:
            taken = self._embeddings.take(self._limits.max_prompt_tokens_per_step)
        if taken is None:
            return
        job, prompts = taken
        try:
            job.add(pooled(self._loaded.model, prompts))
        except Exception as error:  # it is this request's alone: the batch goes on
            _log.exception("embeddings failed")
            job.fail(error)
        self._metrics.prompt_tokens.inc(sum(len(prompt) for prompt in prompts))
        self._metrics.embeddings.inc(len(prompts))
        if job.left and not job.future.done():
            with self._wake:
                self._embeddings.put_back(job)

    def _admit(self) -> None:
        budget = self._limits.max_prompt_tokens_per_step
        while len(self._running) < self._limits.max_batch_size:
            with self._wake:
                if not self._waiting:
                    return
                sequence = self._waiting[0]
                prompt = len(sequence.request.prompt)
                if not sequence.ticket.cancelled:
                    first = budget == self._limits.max_prompt_tokens_per_step
                    if (prompt > budget and not first) or not self._fits(sequence):
                        return
                self._waiting.popleft()
            if sequence.ticket.cancelled:
                _emit(sequence, TokenEvent(sequence.request.index, None, "", None, "cancelled"))
                continue
            # Listed before its prompt is computed: a failure there must end it too.
            self._running.append(sequence)
            logits = self._batch.join(sequence.request.prompt, self._read)
            budget -= prompt
            self._take([sequence], logits[None])

    def _read(self, tokens: int) -> None:
        self._metrics.prompt_tokens.inc(tokens)
        self._step_began = time.monotonic()  # a long prompt is not a loop that stands still

    def _fits(self, sequence: _Sequence) -> bool:
        if not self._running:
            return True
        columns = max(sequence.reach, *(other.reach for other in self._running))
        return (len(self._running) + 1) * columns <= self._limits.cache_tokens

    def _take(self, sequences: list[_Sequence], logits: torch.Tensor) -> None:
        chosen = choose(
            logits,
            [sequence.request.sampling for sequence in sequences],
            [sequence.generator for sequence in sequences],
            [sequence.counts for sequence in sequences],
        )
        now = time.monotonic()
        taken = [
            (sequence, self._event(sequence, token, logits[row], now))
            for row, (sequence, token) in enumerate(zip(list(sequences), chosen, strict=True))
        ]
        # Places are free before anybody hears of an end: who waits for it sees no old load.
        self._release([sequence for sequence, event in taken if event.finish_reason])
        for sequence, event in taken:
            _emit(sequence, event)

    def _event(
        self, sequence: _Sequence, token: int | None, logits: torch.Tensor, now: float
    ) -> TokenEvent:
        index, sampling = sequence.request.index, sequence.request.sampling
        if token is None:
            return TokenEvent(
                index, None, "", None, "error", "the model's logits are not finite numbers"
            )
        self._measure(sequence, now)
        sequence.tokens.append(token)
        sequence.counts[token] += 1
        logprob = None
        if sampling.logprobs is not None:
            logprob = logprobs_of(logits, token, sampling.logprobs)
        reason: FinishReason | None = None
        if token in sampling.stop_token_ids or (
            token in self._loaded.eos and not sampling.ignore_eos
        ):
            reason, text = "stop", sequence.stops.push(sequence.detokenizer.finish())
        else:
            text = sequence.stops.push(sequence.detokenizer.push(token))
            if not sequence.stops.stopped and len(sequence.tokens) >= sampling.max_tokens:
                reason = "length"
                text += sequence.stops.push(sequence.detokenizer.finish())
        if sequence.stops.stopped:
            reason = "stop"
        elif reason is not None:
            text += sequence.stops.finish()
        return TokenEvent(index, token, text, logprob, reason)

    def _measure(self, sequence: _Sequence, now: float) -> None:
        self._generated += 1
        self._metrics.generated_tokens.inc()
        if sequence.tokens:
            self._metrics.next_token.observe(now - sequence.last_token_at)
        else:
            self._metrics.first_token.observe(now - sequence.submitted)
        sequence.last_token_at = now

    def _release(self, gone: list[_Sequence], reason: FinishReason | None = None) -> None:
        if not gone:
            return
        rows = [row for row, sequence in enumerate(self._running) if sequence not in gone]
        self._batch.keep(rows)
        with self._wake:
            self._running = [self._running[row] for row in rows]
        if reason is not None:
            for sequence in gone:
                _emit(sequence, TokenEvent(sequence.request.index, None, "", None, reason))

    def _fail_running(self, message: str) -> None:
        failed, self._running = self._running, []
        self._batch = CacheBatch(self._loaded.model)
        for sequence in failed:
            _emit(sequence, TokenEvent(sequence.request.index, None, "", None, "error", message))

    def _apply_update(self) -> None:
        assert self._update is not None
        folder, done = self._update
        try:
            load_weights(self._loaded.model, folder)
            done.set_result(None)
        except (OSError, ValueError) as error:
            done.set_exception(error)
        finally:
            with self._wake:
                self._update = None


def _emit(sequence: _Sequence, event: TokenEvent) -> None:
    try:
        sequence.sink(event)
    except RuntimeError:  # the listener's event loop has closed: nobody to tell
        sequence.ticket.cancelled = True
