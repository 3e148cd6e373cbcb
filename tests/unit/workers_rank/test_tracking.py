"""One experiment over all attempts: variables, the kept folder, and event files."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quarterdeck.specs.protocol import RunOrder
from quarterdeck_workers.rank.tensorboard import EventFile, crc32c, record
from quarterdeck_workers.rank.tracking import (
    FOLDER,
    Tracking,
    restore_tracking,
    tracking_variables,
)


def order(tmp_path: Path, tool: str, epoch: int = 1) -> RunOrder:
    return RunOrder(
        run_id=f"run-{epoch}", epoch=epoch, owner_type="job", owner_id="job-x", owner_name="x",
        project="nlp", kind="command", spec={"tracking": tool}, cluster="c", placements=[],
        artifacts_uri=(tmp_path / "store").as_uri(), api_url="", run_key="",
    )  # fmt: skip


def records(data: bytes) -> Iterator[bytes]:
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        content = data[12 : 12 + length]
        assert record(content) == data[: 16 + length]  # both checksums are right
        yield content
        data = data[16 + length :]


def fields(data: bytes) -> dict[int, Any]:
    """A small reader of protocol buffers: field → last value."""
    found: dict[int, Any] = {}
    while data:
        tag, kind, data = data[0] >> 3, data[0] & 7, data[1:]
        if kind in (0, 2):
            value = shift = 0
            while True:
                byte, data = data[0], data[1:]
                value |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    break
            if kind == 2:
                found[tag], data = data[:value], data[value:]
            else:
                found[tag] = value
        else:
            size, form = (8, "<d") if kind == 1 else (4, "<f")
            (found[tag],), data = struct.unpack(form, data[:size]), data[size:]
    return found


def test_event_files_have_the_format_of_tensorboard(tmp_path: Path) -> None:
    assert crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32C
    events = EventFile(tmp_path, "me")
    events.add(1700000000.5, 300, {"loss": 2.5})
    events.add(1700000001.5, 301, {"loss": 1e300, "é/x": -1.0})
    (file,) = tmp_path.iterdir()
    assert file.name == "events.out.tfevents.1700000000.me"
    version, first, second = map(fields, records(file.read_bytes()))
    assert version[3] == b"brain.Event:2"
    assert (first[1], first[2]) == (1700000000.5, 300)
    assert fields(fields(first[5])[1]) == {1: b"loss", 2: 2.5}
    assert fields(fields(second[5])[1]) == {1: "é/x".encode(), 2: -1.0}


def test_the_next_attempt_starts_with_what_the_last_one_left(tmp_path: Path) -> None:
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    restore_tracking(order(tmp_path, "mlflow"), one)
    first = Tracking(order(tmp_path, "mlflow"), one)
    assert "MLFLOW_RUN_ID" not in tracking_variables(order(tmp_path, "mlflow"), one)
    run = one / FOLDER / "mlruns" / "0" / "abc"
    (run / "tags").mkdir(parents=True)
    (run / "tags" / "t").write_text("1")
    (run / "meta.yaml").write_text(f"artifact_uri: {run.as_uri()}/artifacts\n")
    first.end()
    restore_tracking(order(tmp_path, "mlflow", 3), three)
    variables = tracking_variables(order(tmp_path, "mlflow", 3), three)
    assert variables["MLFLOW_RUN_ID"] == "abc"
    assert variables["MLFLOW_TRACKING_URI"] == (three / FOLDER / "mlruns").as_uri()
    there = three / FOLDER / "mlruns" / "0" / "abc"
    assert (there / "meta.yaml").read_text() == f"artifact_uri: {there.as_uri()}/artifacts\n"
    assert (there / "params").is_dir() and (there / "artifacts").is_dir()
    # A late attempt of an old epoch writes where nobody of a newer one reads.
    restore_tracking(order(tmp_path, "mlflow", 2), two)
    (two / FOLDER / "late").write_text("x")
    third = Tracking(order(tmp_path, "mlflow", 3), three)
    third.end()
    Tracking(order(tmp_path, "mlflow", 2), two).end()
    four = tmp_path / "four"
    restore_tracking(order(tmp_path, "mlflow", 4), four)
    assert not (four / FOLDER / "late").exists() and (four / FOLDER / "mlruns").exists()


def test_one_run_id_and_the_metrics_of_steps(tmp_path: Path) -> None:
    ids = {
        tracking_variables(order(tmp_path, "wandb", epoch), tmp_path)["WANDB_RUN_ID"]
        for epoch in (1, 2)
    }
    assert ids == {"job-x"}
    assert tracking_variables(order(tmp_path, ""), tmp_path) == {}
    (tmp_path / FOLDER).mkdir()
    tracking = Tracking(order(tmp_path, "tensorboard"), tmp_path, every=0.05)
    step = {"type": "step", "at": 1.0, "step": 1, "metrics": {"loss": 1.0}}
    tracking.hear([{"type": "heartbeat"}, {**step, "metrics": {}}, step])
    tracking.end()
    tracking.hear([step])
    tracking.keep()
    (kept,) = (tmp_path / "store" / FOLDER / "job-x" / "1").glob("events.*")
    assert len(list(records(kept.read_bytes()))) == 3
