"""What can go wrong when one talks to the control plane, one class for each remedy."""

from __future__ import annotations

import httpx
from pydantic import ValidationError

from quarterdeck.specs.resources import Problem


class QuarterdeckError(Exception):
    """A refusal or a failure; `problem` is the api's answer, None where none came."""

    def __init__(self, message: str, problem: Problem | None = None) -> None:
        super().__init__(message)
        self.problem = problem


class ConfigurationError(QuarterdeckError):
    """No address or no usable key: nothing was sent."""


class Unreachable(QuarterdeckError):
    """No answer within the retry budget; whether the request took effect is unknown."""


class KeyRejected(QuarterdeckError):
    """401: the key is unknown, expired or revoked."""


class AccessDenied(QuarterdeckError):
    """403: the key's access or project does not reach this."""


class NotFound(QuarterdeckError):
    """404: there is no such thing, or the key may not see it."""


class Conflict(QuarterdeckError):
    """409: the state does not allow it."""


class StaleEpoch(Conflict):
    """409 stale_epoch: a newer epoch owns this; whoever hears it must stop."""


class AlreadyClaimed(Conflict):
    """409 already_claimed: another agent has this run."""


class StaleETag(QuarterdeckError):
    """412 or 428: somebody changed it since; read again, then write with the new ETag."""


class TooLarge(QuarterdeckError):
    """413: the body is over the api's limit."""


class Invalid(QuarterdeckError):
    """400 or 422: wrong fields; `problem.errors` names each with its path."""


class ServerFailure(QuarterdeckError):
    """5xx: the control plane failed; its log says why."""


_BY_NAME: dict[str, type[QuarterdeckError]] = {
    "stale_epoch": StaleEpoch,
    "already_claimed": AlreadyClaimed,
}
_BY_STATUS: dict[int, type[QuarterdeckError]] = {
    400: Invalid,
    401: KeyRejected,
    403: AccessDenied,
    404: NotFound,
    409: Conflict,
    412: StaleETag,
    413: TooLarge,
    422: Invalid,
    428: StaleETag,
}
_SERVER_FAILURES = 500


def problem_name(problem: Problem) -> str:
    """The last part of the problem's type: `/problems/stale_epoch` is `stale_epoch`."""
    return problem.type.rstrip("/").rsplit("/", 1)[-1]


def error_from(response: httpx.Response) -> QuarterdeckError:
    """The exception for an answer of status 400 or more, read completely."""
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        problem = Problem(
            type="about:blank",
            title=response.reason_phrase or "Error",
            status=response.status_code,
            detail=f"{response.request.url.path} answered {response.status_code}",
        )
    kind = _BY_NAME.get(problem_name(problem)) or _BY_STATUS.get(response.status_code)
    if kind is None:
        kind = ServerFailure if response.status_code >= _SERVER_FAILURES else QuarterdeckError
    return kind(problem.detail or problem.title, problem)
