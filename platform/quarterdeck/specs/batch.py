"""Offline inference: a dataset through a model to a dataset."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from quarterdeck.specs.base import Spec
from quarterdeck.specs.common import JobSpec
from quarterdeck.specs.references import ReferenceText
from quarterdeck.specs.units import Count

PLACE = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_.-]*)\s*\}\}")
"""`{{field}}` or `{{field.inner}}` of a row."""


def _template(value: str) -> str:
    rest = PLACE.sub("", value)
    if "{{" in rest or "}}" in rest:
        raise ValueError(f"{value!r}: write a row's field as {{{{name}}}}")
    if not PLACE.search(value):
        raise ValueError(f"{value!r} uses no field of a row: write one as {{{{text}}}}")
    return value


class Generation(Spec):
    """How each row's continuation is chosen. `temperature` 0 is greedy; rows draw from
    generators of their own, so that `seed` repeats them on any number of ranks."""

    max_tokens: Count = Field(default=128, ge=1, le=1_000_000)
    temperature: float = Field(default=0.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    seed: int = Field(default=0, ge=0, lt=2**31)
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = Field(default=(), max_length=16)


class BatchSpec(JobSpec):
    """Generate one row for each row of a dataset. Rows are the lines of `.jsonl` files (objects)
    and all other files (fields `text` and `path`)."""

    kind: Literal["batch"]
    model: ReferenceText
    dataset: ReferenceText
    ranks: int = Field(default=1, ge=1, le=4096)
    """Replicas of the model, one a rank."""
    input: Annotated[str, AfterValidator(_template)] | None = None
    """The prompt: text with `{{field}}` of the row. Default: `{{text}}`."""
    messages: str | None = Field(default=None, min_length=1)
    """Instead of `input`: the field that holds a conversation in OpenAI's form."""
    generation: Generation = Generation()
    batch_size: int = Field(default=16, ge=1, le=4096)
    """Rows decoded together on one rank."""
    shard_rows: int = Field(default=256, ge=1, le=100_000)
    """Rows that are done again when a rank is lost."""
    on_error: Literal["fail", "record"] = "fail"
    """What a row that cannot be asked does: fail the job, or leave an `error` in its place."""

    @model_validator(mode="after")
    def _one_prompt(self) -> BatchSpec:
        if self.input is not None and self.messages is not None:
            raise ValueError("input and messages exclude each other: keep one")
        return self

    @property
    def rank_count(self) -> int:
        return self.ranks
