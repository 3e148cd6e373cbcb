"""Running the clients' examples as their first lines say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[3] / "examples" / "clients"


def run_example(
    gateway_url: str, key: str, name: str, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """One of them, against the service `chat` of a gateway."""
    variables = {"OPENAI_BASE_URL": f"{gateway_url}/v1", "OPENAI_API_KEY": key}
    return subprocess.run(
        [sys.executable, str(EXAMPLES / name), "--model", "chat", *arguments],
        env=os.environ | variables, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
