"""`tracking`: one experiment over all attempts of a job, in a folder that the attempts hand on.

Programs find the folder in `$QUARTERDECK_TRACKING_DIR`, and the variables of their tool point into
it. Rank 0's node copies what changed to the artifact store, every minute and at the end, under
tracking/{job}/{epoch}: each epoch has a folder of its own, so a late one spoils nothing. The next
attempt starts with what the last one left. Metrics of steps (`report`, and every training's)
become TensorBoard event files where that is the tool.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from quarterdeck.artifacts import ArtifactError, ArtifactStore
from quarterdeck.specs.protocol import RunOrder
from quarterdeck_workers.rank.tensorboard import EventFile

FOLDER = "tracking"
TRACKING_DIR = "QUARTERDECK_TRACKING_DIR"
EVERY_SECONDS = 60.0
MOST_BYTES = 4 * 2**30
_PLACE = ".place"
"""Where the folder lay when its files were written: MLflow's have absolute paths in them."""
log = logging.getLogger(__name__)


def tracking_variables(order: RunOrder, workdir: Path) -> dict[str, str]:
    """What the chosen tool reads from its environment; empty without `tracking`."""
    tool = order.spec.get("tracking")
    if not tool:
        return {}
    folder = workdir / FOLDER
    found = {TRACKING_DIR: str(folder)}
    if tool == "tensorboard":
        found["TENSORBOARD_LOGGING_DIR"] = str(folder)
    elif tool == "wandb":
        found.update(
            WANDB_MODE="offline", WANDB_DIR=str(folder), WANDB_RUN_ID=order.owner_id,
            WANDB_RESUME="allow", WANDB_NAME=order.owner_name, WANDB_PROJECT=order.project,
        )  # fmt: skip
    elif tool == "mlflow":
        found["MLFLOW_TRACKING_URI"] = (folder / "mlruns").as_uri()
        # The run that the first attempt's program has made is every attempt's.
        found["MLFLOW_ALLOW_FILE_STORE"] = "true"
        if (run := _mlflow_run(folder / "mlruns")) is not None:
            found["MLFLOW_RUN_ID"] = run
    return found


def _mlflow_run(store: Path) -> str | None:
    runs = sorted(store.glob("*/*/meta.yaml"), key=lambda file: file.stat().st_mtime)
    named = [file.parent.name for file in runs if (file.parent / "tags").is_dir()]
    return named[0] if named else None


def restore_tracking(order: RunOrder, workdir: Path) -> None:
    """Bring what earlier attempts left. Raises OSError and ArtifactError."""
    folder = workdir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    store = ArtifactStore(order.artifacts_uri, order.artifacts_options)
    base = f"{FOLDER}/{order.owner_id}"
    for epoch in range(order.epoch - 1, 0, -1):
        path = f"{base}/{epoch}"
        if store.exists(path) and store.sizes(path):
            store.get_folder(path, folder)
            break
    _move(folder)


def _move(folder: Path) -> None:
    """Let MLflow's files name the folder that they are in now, and give its runs the folders back
    that it wants and that a store of files does not keep when they are empty."""
    place = folder / _PLACE
    before = place.read_text(encoding="utf-8") if place.exists() else ""
    if before and before != str(folder):
        for file in folder.rglob("meta.yaml"):
            text = file.read_text(encoding="utf-8")
            file.write_text(text.replace(before, str(folder)), encoding="utf-8")
        for tags in folder.glob("mlruns/*/*/tags"):
            for name in ("metrics", "params", "artifacts"):
                (tags.parent / name).mkdir(exist_ok=True)
            (tags.parents[2] / ".trash").mkdir(exist_ok=True)
    place.write_text(str(folder), encoding="utf-8")


class Tracking:
    """Keeps one run's folder; `hear` from one thread, `end` once."""

    def __init__(self, order: RunOrder, workdir: Path, every: float = EVERY_SECONDS) -> None:
        self._folder = workdir / FOLDER
        self._store = ArtifactStore(order.artifacts_uri, order.artifacts_options)
        self._path = f"{FOLDER}/{order.owner_id}/{order.epoch}"
        self._every = every
        self._kept: dict[str, tuple[int, int]] = {}
        self._events: EventFile | None = None
        if order.spec.get("tracking") == "tensorboard":
            self._events = EventFile(self._folder, f"quarterdeck.{order.epoch}")
        self._ending = threading.Event()
        self._one = threading.Lock()
        threading.Thread(target=self._run, name="tracking", daemon=True).start()

    def hear(self, messages: Iterable[Mapping[str, Any]]) -> None:
        """Take the metrics of steps among a rank's messages."""
        if self._events is None:
            return
        for message in messages:
            if message.get("type") == "step" and message.get("metrics"):
                values = {str(name): float(one) for name, one in message["metrics"].items()}
                try:
                    self._events.add(float(message["at"]), int(message["step"]), values)
                except OSError as error:
                    log.warning("tracking: step %s is not written: %s", message["step"], error)

    def _run(self) -> None:
        while not self._ending.wait(self._every):
            self.keep()

    def keep(self) -> None:
        """Copy files that changed since the last time. What fails is tried again the next time."""
        with self._one:
            try:
                self._keep()
            except (OSError, ArtifactError) as error:
                log.warning("tracking: not kept: %s", error)

    def _keep(self) -> None:
        files = [file for file in sorted(self._folder.rglob("*")) if _plain(file)]
        found = {file: file.stat() for file in files}
        if (total := sum(about.st_size for about in found.values())) > MOST_BYTES:
            log.warning("tracking: %d bytes are more than %d: not kept", total, MOST_BYTES)
            return
        for file, about in found.items():
            name = file.relative_to(self._folder).as_posix()
            state = about.st_size, about.st_mtime_ns
            if self._kept.get(name) != state:
                self._store.put_file(file, f"{self._path}/{name}")
                self._kept[name] = state

    def end(self) -> None:
        """Keep the last state."""
        self._ending.set()
        self.keep()


def _plain(file: Path) -> bool:
    return file.is_file() and not file.is_symlink()
