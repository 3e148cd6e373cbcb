"""Joins the Ray of a home, then tells for each line on stdin what is free there:
`look_at_ray.py HOME`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from quarterdeck_workers.agent.ray_process import client_environment, running

if __name__ == "__main__":
    home = Path(sys.argv[1])
    os.environ.update(client_environment(home))
    import ray

    node = running(home)
    assert node is not None
    ray.init(
        address=node.address, namespace="quarterdeck", log_to_driver=False,
        configure_logging=False, _node_ip_address=node.node_ip,
    )  # fmt: skip
    for _ in sys.stdin:
        sys.stdout.write(json.dumps(ray.available_resources()) + "\n")
        sys.stdout.flush()
