"""What an HTTP surface needs of an engine, whatever generates the tokens.

An engine takes whole sequences (token ids and how to sample) and calls a sink for each token
from its own thread. Further abilities are optional and have protocols of their own: embeddings,
taking new weights between steps, and telling which prompt blocks its key-value cache holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

FinishReason = Literal["stop", "length", "cancelled", "error"]


class EngineError(Exception):
    """An engine refuses a request. `retry_after` is seconds, where trying again makes sense."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class EngineBusy(EngineError):
    """The waiting queue is full."""


class EngineDraining(EngineError):
    """The engine finishes what it has and takes nothing new."""


class EngineDead(EngineError):
    """The loop ended: nothing will be generated any more."""


@dataclass(frozen=True)
class Sampling:
    """How one sequence's tokens are chosen and where it ends.

    `temperature` 0 is greedy. `top_k` 0 and `top_p` 1 do not cut. `logprobs` is the number of
    alternatives reported for each token (0: the chosen one alone; None: nothing).
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None


@dataclass(frozen=True)
class SequenceRequest:
    """One continuation to generate. `index` tells the sequences of a request apart."""

    index: int
    prompt: tuple[int, ...]
    sampling: Sampling


@dataclass(frozen=True)
class TokenLogprob:
    """Natural logarithms under the model's own distribution (before temperature and cuts)."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class TokenEvent:
    """One step of one sequence.

    `text` may be empty (a character or a possible stop string is still open) or hold the text
    of several tokens. The last event of a sequence carries `finish_reason`.
    """

    index: int
    token_id: int | None
    text: str
    logprob: TokenLogprob | None = None
    finish_reason: FinishReason | None = None
    error: str = ""


Sink = Callable[[TokenEvent], None]
"""Called on the engine's thread: must not block."""


@dataclass(frozen=True)
class EngineStats:
    """A moment's load: sequences running and waiting, and tokens generated since the start."""

    running: int
    waiting: int
    generated_tokens: int


class Ticket(Protocol):
    """A submitted request."""

    def cancel(self) -> None:
        """Give its sequences up; from any thread, any number of times."""


@runtime_checkable
class Engine(Protocol):
    """Generates tokens. Methods may be called from any thread."""

    max_model_len: int
    vocabulary: int

    def submit(self, sequences: Sequence[SequenceRequest], sink: Sink) -> Ticket:
        """Queue all sequences or none. Raises EngineBusy, EngineDraining or EngineDead."""

    def stats(self) -> EngineStats: ...

    def alive(self) -> bool:
        """False once the loop ended, or stood still with work at hand."""

    def drain(self) -> None:
        """Take nothing new; what was taken goes on."""

    def stop(self) -> None:
        """End the loop; sequences that still run finish with `cancelled`."""


@runtime_checkable
class Embedder(Protocol):
    """An engine that tells what texts mean, as vectors."""

    embedding_width: int

    def embed(self, prompts: list[tuple[int, ...]]) -> Future[list[list[float]]]:
        """Queue one request: a vector of length 1 and `embedding_width` numbers for each prompt
        (token ids). Raises EngineBusy, EngineDraining or EngineDead; cancelling the future gives
        the request up."""


@runtime_checkable
class WeightReceiver(Protocol):
    """An engine whose weights can be replaced without a restart."""

    def update_weights(self, folder: Path) -> None:
        """Load the weights of a Hugging Face folder of the same architecture between steps,
        once running sequences have ended. Returns when done; raises ValueError naming the
        parameters that do not fit, and then keeps the old weights."""


@dataclass(frozen=True)
class KeyValueEvent:
    """A block of a prompt entered or left an engine's key-value cache.

    `block` is a hash that chains over all tokens up to the block's end."""

    sequence_number: int
    kind: Literal["stored", "removed", "cleared"]
    block: str = ""
    parent: str = ""
    tokens: int = 0


@runtime_checkable
class KeyValueEventSource(Protocol):
    """An engine that keeps prompt blocks and says which, for routing by exact prefix."""

    def key_value_events(self, after: int) -> list[KeyValueEvent]:
        """Events later than a sequence number, oldest first, bounded; `cleared` leads where
        older ones were dropped."""
