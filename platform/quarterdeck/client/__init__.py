"""The SDK: `Client` for people and programs, `AgentClient` and `RunClient` for machines."""

from quarterdeck.client.agents import AgentClient, RunClient
from quarterdeck.client.client import Client, WaitExpired
from quarterdeck.client.errors import (
    AccessDenied,
    AlreadyClaimed,
    ConfigurationError,
    Conflict,
    Invalid,
    KeyRejected,
    NotFound,
    QuarterdeckError,
    ServerFailure,
    StaleEpoch,
    StaleETag,
    TooLarge,
    Unreachable,
)

__all__ = [
    "AccessDenied",
    "AgentClient",
    "AlreadyClaimed",
    "Client",
    "ConfigurationError",
    "Conflict",
    "Invalid",
    "KeyRejected",
    "NotFound",
    "QuarterdeckError",
    "RunClient",
    "ServerFailure",
    "StaleETag",
    "StaleEpoch",
    "TooLarge",
    "Unreachable",
    "WaitExpired",
]
