"""What handlers share: the settings and what is made of them once for each app."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from quarterdeck.api.log_reader import LogReader
from quarterdeck.api.monitoring import Monitoring
from quarterdeck.api.news import News
from quarterdeck.api.settings import ApiSettings
from quarterdeck.api.tunnels import Tunnels
from quarterdeck.api.vault import Vault
from quarterdeck.artifacts import ArtifactStore
from quarterdeck.store.sessions import Database


@dataclass(frozen=True)
class ApiState:
    """One app's parts."""

    settings: ApiSettings
    vault: Vault
    news: News
    monitoring: Monitoring
    artifacts: ArtifactStore
    tunnels: Tunnels
    logs: LogReader

    @property
    def database(self) -> Database:
        return self.settings.database


def get_state(request: Request) -> ApiState:
    """The parts of the app that serves this request."""
    state = request.app.state.parts
    assert isinstance(state, ApiState)
    return state


State = Annotated[ApiState, Depends(get_state)]
