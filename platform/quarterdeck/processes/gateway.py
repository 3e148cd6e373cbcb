"""The gateway process."""

from __future__ import annotations

from pathlib import Path

from quarterdeck.processes.home import Home


def run_gateway(home: Home, host: str, port: int, api_url: str, key_file: Path) -> None:
    """Serve the OpenAI surface until SIGINT or SIGTERM."""
    from quarterdeck.gateway.server import server_for
    from quarterdeck.gateway.settings import GatewaySettings
    from quarterdeck.processes.http_server import serve

    settings = GatewaySettings(
        api_url=api_url,
        key_path=key_file,
        snapshot_path=home.folder / "gateway-snapshot.json",
        host=host,
        port=port,
    )
    serve(server_for(settings))
