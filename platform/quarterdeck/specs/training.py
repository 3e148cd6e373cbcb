"""How a model is trained: layout, recipe and numbers."""

from __future__ import annotations

from math import prod
from typing import Literal

from pydantic import Field, model_validator

from quarterdeck.specs.base import Spec
from quarterdeck.specs.units import Count, PositiveCount, Seconds

Precision = Literal["fp32", "bf16"]
MAX_RAMP_SIZES = 1000


class Parallelism(Spec):
    """Degrees of 3D parallelism; rank = (pipeline·data + d)·tensor + t.

    `zero` is the ZeRO stage: with pipeline 0 or 1. `sequence` splits norms and dropout along
    the sequence inside a tensor group (Megatron). `offload: optimizer` keeps the optimizer's state
    in host memory and steps there (ZeRO-Offload, Ren et al. 2021): without a pipeline, zero ≥ 1.
    """

    data: int = Field(default=1, ge=1)
    tensor: int = Field(default=1, ge=1)
    pipeline: int = Field(default=1, ge=1)
    zero: int = Field(default=1, ge=0, le=3)
    offload: Literal["none", "optimizer"] = "none"
    sequence: bool = False
    pipeline_schedule: Literal["1f1b"] = "1f1b"

    @property
    def ranks(self) -> int:
        return prod((self.data, self.tensor, self.pipeline))

    @model_validator(mode="after")
    def _possible(self) -> Parallelism:
        if self.pipeline > 1 and self.zero > 1:
            raise ValueError(
                f"zero: {self.zero} cannot be combined with pipeline: {self.pipeline}; "
                "use zero: 1 (sharded optimizer state) or pipeline: 1"
            )
        if self.offload != "none" and self.pipeline > 1:
            raise ValueError(
                f"offload: {self.offload} cannot be combined with pipeline: {self.pipeline}; "
                "use pipeline: 1 (with zero: 2 or 3 to save more) or offload: none"
            )
        if self.offload != "none" and self.zero == 0:
            raise ValueError(
                f"offload: {self.offload} needs zero: 1, 2 or 3, not 0: without ZeRO the "
                "optimizer's state stays with the weights"
            )
        if self.sequence and self.tensor == 1:
            raise ValueError("sequence: true needs tensor > 1: it splits along the tensor group")
        return self


class OuterStep(Spec):
    """What replicas do when they meet.

    `average` takes the mean of their weights (LocalSGD); `nesterov` takes the way from the mean
    back to where they last met as a gradient and steps on it (DiLoCo).
    """

    method: Literal["average", "nesterov"] = "average"
    learning_rate: float | None = Field(default=None, gt=0)
    """Nesterov's; None means 0.7, the paper's."""
    momentum: float | None = Field(default=None, ge=0, lt=1)
    """Nesterov's; None means 0.9."""

    @model_validator(mode="after")
    def _only_nesterovs(self) -> OuterStep:
        for name in ("learning_rate", "momentum"):
            if self.method == "average" and getattr(self, name) is not None:
                raise ValueError(
                    f"{name} belongs to method: nesterov: leave it out, or choose nesterov"
                )
        return self


class Sync(Spec):
    """Data-parallel replicas that take `every` steps by themselves between two meetings."""

    every: PositiveCount
    outer: OuterStep = OuterStep()

    def broken_rule(self, parallelism: Parallelism) -> str | None:
        """Why the layout cannot train so, with the remedy; None when it can."""
        if parallelism.data > 1 and parallelism.zero > 0:
            return (
                f"sync: between meetings each replica has an optimizer state of its own, which "
                f"zero: {parallelism.zero} would split over data: {parallelism.data}; set "
                "parallelism.zero: 0, or leave sync out"
            )
        return None


class Elastic(Spec):
    """How far a training may shrink when its full gang does not fit, and when it regrows.

    A restart goes on with the largest layout of at least `min_ranks` ranks that fits, on the same
    global batch. Once the full gang has fitted for `regrow_after` it writes a checkpoint and
    returns to it, at most once per `regrow_every`.
    """

    min_ranks: int = Field(ge=1)
    regrow_after: Seconds = Field(default=30.0, ge=0)
    regrow_every: Seconds = Field(default=600.0, ge=0)


class BatchRamp(Spec):
    """A global batch that starts small (Brown et al. 2020, appendix B).

    It grows from `start` sequences by `increment` in equal portions of `samples` sequences, until
    it is `global_batch_size` once those are seen (Megatron-LM's `--rampup-batch-size`).
    """

    start: PositiveCount
    increment: PositiveCount
    samples: PositiveCount

    def portions(self, final: int) -> int:
        """How many sizes there are below `final`. Raises ValueError when they do not lead there."""
        rise = final - self.start
        if rise <= 0:
            raise ValueError(
                f"batch_ramp.start {self.start} is not less than global_batch_size {final}: "
                "start smaller, or leave batch_ramp out"
            )
        count, rest = divmod(rise, self.increment)
        if rest:
            raise ValueError(
                f"batch_ramp: steps of {self.increment} do not lead from {self.start} to "
                f"global_batch_size {final}: choose an increment that divides {rise}"
            )
        if count > MAX_RAMP_SIZES:
            raise ValueError(
                f"batch_ramp has {count} sizes, more than {MAX_RAMP_SIZES}: choose an increment "
                f"of at least {-(-rise // MAX_RAMP_SIZES)}"
            )
        return count


class Training(Spec):
    """Amount of training and its recipe; None means LLaMA's recipe for the model's size.

    Exactly one of `tokens`, `steps` and `passes` is given. `global_batch_size` counts sequences
    per optimizer step, over all data-parallel ranks and accumulation; None means the size's too.
    """

    tokens: PositiveCount | None = None
    steps: PositiveCount | None = None
    passes: float | None = Field(default=None, gt=0)
    sequence_length: Count = Field(default=2048, ge=8)
    global_batch_size: PositiveCount | None = None
    batch_ramp: BatchRamp | None = None
    micro_batch_size: PositiveCount | None = None
    learning_rate: float | None = Field(default=None, gt=0)
    min_learning_rate_share: float = Field(default=0.1, ge=0, le=1)
    lr_schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: Count | None = None
    weight_decay: float = Field(default=0.1, ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    clip: float = Field(default=1.0, ge=0)
    """Largest gradient norm; 0 switches clipping off."""
    activation_checkpointing: Literal["none", "full"] = "none"
    freeze: tuple[str, ...] = ()
    """Glob patterns over Hugging Face parameter names, e.g. `model.embed_tokens.*`."""
    seed: int = 1234

    @property
    def batch(self) -> int:
        """Sequences per optimizer step. Raises ValueError until the planner has filled it in."""
        if self.global_batch_size is None:
            raise ValueError(
                "training.global_batch_size is not known yet: give it, or let the planner choose "
                "by the model's size"
            )
        return self.global_batch_size

    @model_validator(mode="after")
    def _one_amount(self) -> Training:
        given = [name for name in ("tokens", "steps", "passes") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of tokens, steps and passes, not {', '.join(given) or 'none'}"
            )
        return self

    @model_validator(mode="after")
    def _ramp_arrives(self) -> Training:
        if self.batch_ramp is not None and self.global_batch_size is not None:
            self.batch_ramp.portions(self.global_batch_size)
        return self
