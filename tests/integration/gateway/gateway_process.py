"""A gateway as a process of its own, for tests that look at its memory: `gateway_process.py JSON`,
the fields of `GatewaySettings` and `open_files`, the most descriptors that it may have."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from quarterdeck.gateway.server import server_for
from quarterdeck.gateway.settings import GatewaySettings
from quarterdeck.processes.http_server import serve

values = json.loads(sys.argv[1])
files = values.pop("open_files")
resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
for name in ("key_path", "snapshot_path"):
    values[name] = Path(values[name])
serve(server_for(GatewaySettings(**values)))
