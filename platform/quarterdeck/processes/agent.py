"""The agent process: one per Ray cluster, or a machine that only joins."""

from __future__ import annotations

from pathlib import Path

from quarterdeck.processes.failures import require_workers
from quarterdeck.processes.home import Home


def run_agent(
    home: Home, *, url: str, cluster: str, slots: int | None, node_ip: str, key_file: Path
) -> None:
    """Run until SIGINT or SIGTERM. Raises WorkersMissing on a machine without the extra."""
    require_workers()
    from quarterdeck_workers.agent import AgentSettings, main

    main(
        AgentSettings(
            api_url=url, cluster=cluster, slots=slots, node_ip=node_ip, key_file=key_file,
            home=home.folder,
        )
    )  # fmt: skip
