"""Runs the entry point of service ranks in a process of its own:
`replica.py FD ORDER WORKDIR [PROBE_EVERY PROBE_TIMEOUT]`."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from quarterdeck.specs.protocol import RunOrder
from quarterdeck_workers.engine.serve import main
from quarterdeck_workers.rank.context import RankContext

if __name__ == "__main__":
    context = RankContext(
        order=RunOrder.model_validate_json(sys.argv[2]),
        rank=0,
        world_size=1,
        local_rank=0,
        node_rank=0,
        master_address="127.0.0.1",
        master_port=0,
        workdir=Path(sys.argv[3]),
        _socket=socket.socket(fileno=int(sys.argv[1])),
    )
    context.start()
    main(context, *(float(each) for each in sys.argv[4:6]))
