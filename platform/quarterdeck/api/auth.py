"""Who asks, and whether the key's access and project reach what is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import Depends, Query
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from quarterdeck.api.credentials import digest
from quarterdeck.api.problems import ProblemError
from quarterdeck.api.state import ApiState, State
from quarterdeck.specs.base import NAME_PATTERN
from quarterdeck.store.key_queries import find_key
from quarterdeck.store.tables import KeyRow

Level = Literal["viewer", "operator", "admin"]
_RANK = {"viewer": 1, "operator": 2, "admin": 3}
_scheme = HTTPBearer(
    scheme_name="key", description="A key of Quarterdeck: `qd_…`.", auto_error=False
)
_LONGEST_KEY = 200


@dataclass(frozen=True)
class Caller:
    """The key behind a request."""

    key: KeyRow

    @property
    def actor(self) -> str:
        """As events name it."""
        return f"key/{self.key.name}"

    @property
    def project(self) -> str | None:
        """The only project that the key reaches; None: every project."""
        return self.key.project

    def may(self, level: Level) -> bool:
        """Whether the access is at least `level`."""
        return _RANK.get(self.key.access, 0) >= _RANK[level]

    def need(self, level: Level) -> None:
        """Raise `access_denied` unless the access is at least `level`."""
        if not self.may(level):
            raise ProblemError(
                "access_denied",
                f"key {self.key.name!r} has access {self.key.access}: this needs {level}",
            )

    def check_project(self, project: str) -> None:
        """Raise `access_denied` unless the key reaches `project`."""
        if self.project is not None and self.project != project:
            raise ProblemError(
                "access_denied",
                f"key {self.key.name!r} reaches project {self.project}, not {project}: "
                f"use --project {self.project}, or another key",
            )

    def check_everywhere(self) -> None:
        """Raise `access_denied` when the key is bound to one project."""
        if self.project is not None:
            raise ProblemError(
                "access_denied",
                f"key {self.key.name!r} is bound to project {self.project}: "
                "this needs a key of the whole installation",
            )

    def check_cluster(self, cluster: str) -> None:
        """Raise `access_denied` unless the key reaches `cluster`."""
        if self.key.cluster is not None and self.key.cluster != cluster:
            raise ProblemError(
                "access_denied",
                f"key {self.key.name!r} is bound to cluster {self.key.cluster}, not {cluster}: "
                "use another key",
            )

    def named_in(self, project: str | None) -> str:
        """The project in which a name is looked up: asked for, else the key's, else default."""
        chosen = project or self.project or "default"
        self.check_project(chosen)
        return chosen

    def listed(self, project: str | None) -> str | None:
        """The project to which a list is restricted; None: all."""
        if project is not None:
            self.check_project(project)
        return project or self.project


def find_caller(
    state: State, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_scheme)]
) -> Caller:
    """The key of the header Authorization; raises `key_unknown`."""
    return key_of(state, given)


def key_of(state: ApiState, given: HTTPAuthorizationCredentials | None) -> Caller:
    """The caller with these credentials; raises `key_unknown`."""
    if given is None or not given.credentials or len(given.credentials) > _LONGEST_KEY:
        raise _unknown("send Authorization: Bearer KEY")
    with state.database.read() as session:
        row = find_key(session, digest(given.credentials))
    if row is None:
        raise _unknown("the key is unknown, expired or revoked: use another one")
    return Caller(row)


def _unknown(detail: str) -> ProblemError:
    return ProblemError("key_unknown", detail, headers={"WWW-Authenticate": "Bearer"})


AnyCaller = Annotated[Caller, Depends(find_caller)]


def _at_least(level: Level) -> Callable[[Caller], Caller]:
    def check(caller: AnyCaller) -> Caller:
        caller.need(level)
        return caller

    return check


def _agent(caller: AnyCaller) -> Caller:
    if caller.key.access != "agent":
        caller.need("admin")
        caller.check_everywhere()
    return caller


Viewer = Annotated[Caller, Depends(_at_least("viewer"))]
Operator = Annotated[Caller, Depends(_at_least("operator"))]
Admin = Annotated[Caller, Depends(_at_least("admin"))]
Agent = Annotated[Caller, Depends(_agent)]
"""An agent's key, or an administrator's of the whole installation."""

ProjectQuery = Annotated[
    str | None,
    Query(pattern=NAME_PATTERN, description="Project; default: the key's own, or `default`."),
]
