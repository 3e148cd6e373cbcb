"""The small clients of agents and supervisors.

Both raise StaleEpoch, AlreadyClaimed (only AgentClient.claim), Unreachable after the retry
budget, and other QuarterdeckError subclasses. Beats may be repeated: they are idempotent
by their sequence number, long polls read only. A claim is not repeated once it was sent.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

import httpx

from quarterdeck.client.transport import API, Transport
from quarterdeck.specs.beats import BeatReply, RunBeat
from quarterdeck.specs.protocol import (
    AgentBeat,
    AgentWork,
    Claim,
    JoinRequest,
    JoinTicket,
    RunOrder,
    WeightsOrder,
)

POLL_MARGIN = 10.0
"""Seconds that a long poll's answer may take beyond the wait that was asked for."""


class _Caller:
    def __init__(
        self,
        url: str,
        key: str,
        timeout: float = 10.0,
        retry_seconds: float = 5.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._transport = Transport(url, key, timeout, retry_seconds, transport)

    def close(self) -> None:
        """Give the connections back."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class AgentClient(_Caller):
    """What the agent of a cluster asks and tells, with a key of access `agent`."""

    def beat(self, cluster: str, beat: AgentBeat) -> AgentWork:
        """Tell that the agent lives and what it sees; hear what there is to do."""
        return self._transport.post(
            AgentWork, f"{API}/agents/{cluster}/beat", body=beat, repeatable=True
        )

    def work(self, cluster: str, wait: float = 20.0) -> AgentWork:
        """Long poll: answers at once when there is work, otherwise after `wait` seconds."""
        return self._transport.get(
            AgentWork, f"{API}/agents/{cluster}/work", params={"wait": wait},
            timeout=wait + POLL_MARGIN,
        )  # fmt: skip

    def claim(self, run_id: str, epoch: int, agent_id: str) -> RunOrder:
        """Claim a run once per epoch; the answer holds credentials.

        Raises AlreadyClaimed, StaleEpoch. After Unreachable the claim may have happened: never
        start a supervisor without the order in hand.
        """
        return self._transport.post(
            RunOrder, f"{API}/runs/{run_id}/claim", body=Claim(epoch=epoch, agent_id=agent_id),
            repeatable=False,
        )  # fmt: skip

    def weights(self, cluster: str, asset_id: str) -> WeightsOrder:
        """What a node needs to fetch a model version that is wanted on the cluster; holds
        credentials. Raises NotFound once nobody wants it."""
        return self._transport.get(WeightsOrder, f"{API}/agents/{cluster}/weights/{asset_id}")

    def join(self, cluster: str, said: JoinRequest) -> JoinTicket:
        """Address and token of a cluster's Ray head, for a machine that joins it."""
        return self._transport.post(
            JoinTicket, f"{API}/clusters/{cluster}/join", body=said, repeatable=True
        )


class RunClient(_Caller):
    """What the supervisor of one run tells, with the run's own key."""

    def beat(self, run_id: str, beat: RunBeat) -> BeatReply:
        """Send one beat; repeating it with the same `seq` changes nothing."""
        return self._transport.post(
            BeatReply, f"{API}/runs/{run_id}/beat", body=beat, repeatable=True
        )
