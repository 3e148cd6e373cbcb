"""Takes part in a node's shared slot 0 and leaves it, TURNS times: `take_turns.py HOME NODE TURNS`.

Each time something must really run there."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from quarterdeck_workers.agent.ray_process import client_environment, running

if __name__ == "__main__":
    home, node_id, turns = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    os.environ.update(client_environment(home))
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    from quarterdeck_workers.supervisor.gang import NODE_LABEL
    from quarterdeck_workers.supervisor.shared_slot import FOLDER, SharedSlot

    node = running(home)
    assert node is not None
    ray.init(
        address=node.address, namespace="quarterdeck", log_to_driver=False,
        configure_logging=False, _node_ip_address=node.node_ip,
    )  # fmt: skip
    one = ray.remote(lambda: 1)
    for turn in range(turns):
        slot = SharedSlot(Path(node.temp, FOLDER), node_id, 0)
        group = slot.join({"slots": 1, "GPU": 1}, {NODE_LABEL: node_id})
        assert group.wait(30), turn
        here = PlacementGroupSchedulingStrategy(group, 0)
        task = one.options(num_cpus=0, resources={"slots": 0.2}, scheduling_strategy=here).remote()
        assert ray.get(task, timeout=60) == 1
        slot.leave()
    sys.stdout.write("took turns\n")
