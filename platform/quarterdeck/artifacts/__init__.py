"""The artifact store: checkpoints, models, token shards and logs at one fsspec URI."""

from quarterdeck.artifacts.digests import file_digest, folder_digest
from quarterdeck.artifacts.errors import ArtifactError, Corrupt, DiskFull, UnsafePath
from quarterdeck.artifacts.store import ArtifactStore

__all__ = [
    "ArtifactError",
    "ArtifactStore",
    "Corrupt",
    "DiskFull",
    "UnsafePath",
    "file_digest",
    "folder_digest",
]
