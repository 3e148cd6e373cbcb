"""The job of the fault benchmark: it counts, and writes down outside of the platform that it did.

Each step is one line `time job epoch rank pid step` in a file that the platform knows nothing of,
a number in the log that no other step prints, and a metric. So a second process for the same rank,
a step told twice and an end that never was can be proven afterwards. With `--save N` rank 0 keeps a
checkpoint each N steps and goes on after the last one.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path


def main() -> None:
    """Count to `--steps`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--pause", type=float, default=0.2)
    parser.add_argument("--save", type=int, default=0)
    options = parser.parse_args()
    job, rank = os.environ["QUARTERDECK_OWNER"], int(os.environ["RANK"])
    epoch = int(os.environ["QUARTERDECK_ATTEMPT"])
    file = os.open(options.records / job, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def record(step: object) -> None:
        os.write(file, f"{time.time():.3f} {job} {epoch} {rank} {os.getpid()} {step}\n".encode())

    record("begin")
    from quarterdeck_workers import report

    for step in range(_first(), options.steps + 1):
        record(step)
        print(f"line {epoch} {rank} {step}", flush=True)
        if rank == 0:
            report(step, {"unique": epoch * 1e6 + step}, _saved(options.save, step))
        time.sleep(options.pause)
    record("end")


def _first() -> int:
    folder = os.environ.get("QUARTERDECK_RESUME_DIR")
    if folder is None:
        return 1
    kept = int(Path(folder, "step").read_text())
    if kept != int(os.environ["QUARTERDECK_RESUME_STEP"]):
        sys.exit(f"the folder is of step {kept}, the platform says another")
    return kept + 1


def _saved(every: int, step: int) -> Path | None:
    if not every or step % every:
        return None
    folder = Path(f"saved-{step}")
    folder.mkdir(exist_ok=True)
    (folder / "step").write_text(str(step))
    return folder


if __name__ == "__main__":
    main()
