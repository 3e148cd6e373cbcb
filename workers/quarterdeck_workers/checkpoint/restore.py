"""Open the checkpoint that a run resumes from, checked by all ranks together."""

from __future__ import annotations

from pathlib import Path

from quarterdeck.artifacts import ArtifactStore
from quarterdeck.specs.beats import CheckpointManifest
from quarterdeck_workers.checkpoint.errors import CorruptCheckpoint
from quarterdeck_workers.checkpoint.reader import CheckpointReader
from quarterdeck_workers.checkpoint.save import gather_objects


def open_checked(
    store: ArtifactStore, manifest: CheckpointManifest, cache: Path, *, rank: int, ranks: int
) -> CheckpointReader:
    """A reader whose every file has the size and SHA-256 of the manifest. Collective.

    Each rank checks its share. Raises CorruptCheckpoint, naming the files, on all ranks alike.
    """
    reader = CheckpointReader(store, manifest, cache / f"rank-{rank:05d}")
    wrong: dict[str, str] = {}
    for found in gather_objects(reader.check(rank, ranks)):
        wrong.update(found)
    if wrong:
        shown = "; ".join(f"{file}: {what}" for file, what in sorted(wrong.items())[:5])
        raise CorruptCheckpoint(
            f"checkpoint of step {manifest.step} at {manifest.uri} is corrupt: {shown}; "
            "delete it and resume from an older one"
        )
    return reader
