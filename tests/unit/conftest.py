"""Property tests here prove the same cases on every machine, however slow it is."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("quarterdeck", deadline=None, derandomize=True, database=None)
settings.load_profile("quarterdeck")
