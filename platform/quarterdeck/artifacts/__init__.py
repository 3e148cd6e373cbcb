"""The artifact store: checkpoints, models, token shards and logs at one fsspec URI."""

from quarterdeck.artifacts.archive import (
    ChangedWhileRead,
    Entry,
    UnsafeArchive,
    archive_size,
    pack,
    unpack,
)
from quarterdeck.artifacts.digests import file_digest, folder_digest
from quarterdeck.artifacts.errors import ArtifactError, Corrupt, DiskFull, UnsafePath
from quarterdeck.artifacts.store import ArtifactStore
from quarterdeck.artifacts.uploads import path_of_upload, upload_at

__all__ = [
    "ArtifactError",
    "ArtifactStore",
    "ChangedWhileRead",
    "Corrupt",
    "DiskFull",
    "Entry",
    "UnsafeArchive",
    "UnsafePath",
    "archive_size",
    "file_digest",
    "folder_digest",
    "pack",
    "path_of_upload",
    "unpack",
    "upload_at",
]
