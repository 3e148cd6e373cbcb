"""Every file that a page shows as YAML is one that the platform takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from quarterdeck.specs.loading import load_documents

ROOT = Path(__file__).resolve().parents[3]
BLOCK = re.compile(r"^```yaml\n(.*?)^```", re.M | re.S)
FILES = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in sorted((ROOT / "docs").rglob("*.md"))
    for number, block in enumerate(BLOCK.findall(page.read_text(encoding="utf-8")))
]


@pytest.mark.parametrize("text", FILES)
def test_a_shown_file_is_valid(text: str) -> None:
    assert load_documents(text, "page")


def test_pages_are_read() -> None:
    assert len(FILES) >= 3
