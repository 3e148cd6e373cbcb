"""One shard's rows through the builtin engine."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from quarterdeck.specs.batch import BatchSpec
from quarterdeck_workers.batch.prompts import BadRow, prompt_of
from quarterdeck_workers.batch.rows import Row
from quarterdeck_workers.engine.builtin import BuiltinEngine, EngineLimits
from quarterdeck_workers.engine.interface import Sampling, SequenceRequest, TokenEvent
from quarterdeck_workers.engine.loading import LoadedModel
from quarterdeck_workers.engine.metrics import EngineMetrics
from quarterdeck_workers.rank.errors import DataError

_LOOK_SECONDS = 0.5


@dataclass
class _Answer:
    prompt_tokens: int
    texts: list[str] = field(default_factory=list)
    tokens: int = 0
    finish_reason: str = ""
    error: str = ""


class Generator:
    """A loaded model and its engine; `close` it."""

    def __init__(self, loaded: LoadedModel, spec: BatchSpec) -> None:
        self._loaded, self._spec = loaded, spec
        limits = EngineLimits(
            max_model_len=loaded.context_length, max_batch_size=spec.batch_size,
            max_waiting=spec.shard_rows,
        )  # fmt: skip
        self._engine = BuiltinEngine(loaded, limits, EngineMetrics())
        self._engine.start()

    def close(self) -> None:
        """End the engine's thread."""
        self._engine.stop()

    def rows(
        self, rows: Sequence[Row], first: int, waiting: Callable[[], None]
    ) -> tuple[list[str], int, int]:
        """Lines of JSON, one for each row, in order; how many are errors; tokens generated.

        `first` is the first row's number in the dataset: its random draws depend on that alone.
        `waiting` is called twice a second and may raise. Raises DataError for a row that cannot
        be asked unless `on_error` is `record`, RuntimeError when the engine fails.
        """
        prompts: dict[int, tuple[int, ...]] = {}
        problems: dict[int, str] = {}
        for place, row in enumerate(rows):
            try:
                if row.problem:
                    raise BadRow(row.problem)
                prompts[place] = prompt_of(self._spec, row.fields, self._loaded)
            except BadRow as error:
                if self._spec.on_error == "fail":
                    raise DataError(
                        f"row {row.id}: {error}. Correct it, or set on_error: record"
                    ) from error
                problems[place] = str(error)
        answers = self._generate(prompts, first, waiting)
        lines = [
            json.dumps(_line(row, answers.get(place), problems.get(place)), ensure_ascii=False)
            for place, row in enumerate(rows)
        ]
        return lines, len(problems), sum(answer.tokens for answer in answers.values())

    def _generate(
        self, prompts: dict[int, tuple[int, ...]], first: int, waiting: Callable[[], None]
    ) -> dict[int, _Answer]:
        wanted = self._spec.generation
        sampling = Sampling(
            max_tokens=wanted.max_tokens, temperature=wanted.temperature, top_p=wanted.top_p,
            top_k=wanted.top_k, seed=wanted.seed, stop=wanted.stop,
        )  # fmt: skip
        answers = {place: _Answer(len(prompt)) for place, prompt in prompts.items()}
        left = set(prompts)
        over = threading.Event()

        def hear(event: TokenEvent) -> None:
            answer = answers[event.index - first]
            answer.texts.append(event.text)
            answer.tokens += event.token_id is not None
            if event.finish_reason is not None:
                answer.finish_reason, answer.error = event.finish_reason, event.error
                left.discard(event.index - first)
                if not left:
                    over.set()

        if not prompts:
            return {}
        requests = [
            SequenceRequest(first + place, prompt, sampling) for place, prompt in prompts.items()
        ]
        ticket = self._engine.submit(requests, hear)
        try:
            while not over.wait(_LOOK_SECONDS):
                waiting()
                if not self._engine.alive():
                    raise RuntimeError("the engine stands still or has ended: see the log")
        except BaseException:
            ticket.cancel()
            raise
        failed = [a for a in answers.values() if a.finish_reason not in ("stop", "length")]
        if failed:
            raise RuntimeError(f"the engine failed: {failed[0].error or failed[0].finish_reason}")
        return answers


def _line(row: Row, answer: _Answer | None, problem: str | None) -> dict[str, Any]:
    line: dict[str, Any] = {"id": row.id, "input": row.fields}
    if answer is None:
        return {**line, "error": problem}
    return {
        **line,
        "output": "".join(answer.texts),
        "finish_reason": answer.finish_reason,
        "usage": {"prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.tokens},
    }
