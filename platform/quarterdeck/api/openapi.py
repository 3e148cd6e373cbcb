"""Write the OpenAPI description: `python -m quarterdeck.api.openapi > docs/openapi.json`."""

from __future__ import annotations

import base64
import json
import sys
import tempfile
from pathlib import Path

from quarterdeck.api.app import create_app
from quarterdeck.api.settings import ApiSettings
from quarterdeck.store.sessions import Database


def describe() -> str:
    """The description as text, the same for the same code."""
    with tempfile.TemporaryDirectory() as folder:
        database = Database.open(f"sqlite:///{Path(folder) / 'none.db'}")
        settings = ApiSettings(
            database=database,
            artifacts_uri="file:///none",
            api_url="http://127.0.0.1:8080",
            master_key=base64.urlsafe_b64encode(bytes(32)).decode(),
        )
        schema = create_app(settings).openapi()
        database.close()
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(describe())
