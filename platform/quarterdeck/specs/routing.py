"""How a service's requests find their replica."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field

from quarterdeck.specs.base import Message, Name, Spec
from quarterdeck.specs.units import Seconds

PolicyName = Literal[
    "round_robin",
    "weighted",
    "least_requests",
    "power_of_two",
    "latency",
    "session",
    "prefix",
    "queue",
    "adapter",
]
POLICY_NAMES: tuple[str, ...] = get_args(PolicyName)
DEFAULT_POLICY: PolicyName = "power_of_two"

_HEADER = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}$"
_SECRET = frozenset({"authorization", "cookie", "proxy-authorization", "x-api-key"})


def _header(name: str) -> str:
    if name.lower() in _SECRET:
        raise ValueError(f"{name!r} carries a secret: name another header")
    return name.lower()


HeaderName = Annotated[str, Field(pattern=_HEADER), AfterValidator(_header)]


class Routing(Spec):
    """Changing it changes no replica: gateways follow at once.

    `session_header` names the header whose value keeps a client with one replica under `session`
    (else the body's `prompt_cache_key` or `user` does), `adapter_header` the one that names a
    LoRA adapter. `load_bound` is how far above the mean a replica's load may go for the sake of
    a session or a cold prefix. Under `prefix`, a cached prefix counts from `prefix_threshold` of
    the prompt on, and no longer once two replicas' loads differ by more than `imbalance` requests.
    A newly ready replica gets its full share after `slow_start`. `weights` are those of the
    replicas on a cluster, by its name, where they are not 1.
    """

    policy: PolicyName = DEFAULT_POLICY
    session_header: HeaderName = "x-session-id"
    adapter_header: HeaderName = "x-adapter"
    load_bound: float = Field(default=1.25, gt=1, le=100)
    prefix_threshold: float = Field(default=0.3, ge=0, le=1)
    imbalance: int = Field(default=64, ge=0, le=100_000)
    slow_start: Seconds = Field(default=10.0, ge=0, le=3600)
    weights: dict[Name, Annotated[int, Field(ge=0, le=1000)]] = {}


class RoutingSettings(Message):
    """`Routing` as gateways are told it: an older gateway takes the default for a policy that it
    does not know, and ignores fields that it does not know."""

    policy: str = DEFAULT_POLICY
    session_header: str = "x-session-id"
    adapter_header: str = "x-adapter"
    load_bound: float = 1.25
    prefix_threshold: float = 0.3
    imbalance: int = 64
    slow_start: float = 10.0
