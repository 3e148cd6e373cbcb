"""Counts to ten and fails once in the middle; the second attempt goes on where that stopped."""

import os
import sys
import time
from pathlib import Path

from quarterdeck_workers import report

LAST, FAILS_AT = 10, 5
rank = int(os.environ["RANK"])
state = Path("out", "count")


def main() -> None:
    count = int(state.read_text()) if state.exists() else 0
    print(f"rank {rank} starts at {count}", flush=True)
    failing = count == 0
    while count < LAST:
        count += 1
        time.sleep(0.1)
        if rank == 0:
            report(count, {"count": count}, steps_total=LAST)
            state.parent.mkdir(exist_ok=True)
            state.write_text(str(count))
        if failing and count == FAILS_AT:
            time.sleep(1 if rank else 0)  # rank 0 is the one that fails
            sys.exit(f"rank {rank} fails once")
    print(f"rank {rank} counted to {count}", flush=True)


main()
