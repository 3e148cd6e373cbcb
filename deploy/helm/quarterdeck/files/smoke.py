"""What `helm test` runs: api and gateway are ready, and a job can be submitted and listed.

python smoke.py API_URL GATEWAY_URL KEY_FILE
"""

import json
import sys
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

READY_SECONDS = 120.0
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ask(method, url, key=None, body=None):
    """The answer as JSON. Raises OSError for none, and for a refusal."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    data = None
    if body is not None:
        headers |= {"Content-Type": "application/json", "Idempotency-Key": uuid.uuid4().hex}
        data = json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers, method=method)
    with _OPENER.open(request, timeout=10) as answer:
        return json.load(answer)


def wait_until_ready(name, url):
    """Until /readyz says so, or the time is over."""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            ask("GET", f"{url}/readyz")
            print(f"{name} is ready at {url}", flush=True)
            return
        except OSError as error:
            if time.monotonic() > deadline:
                detail = (
                    error.read(500).decode() if isinstance(error, urllib.error.HTTPError) else ""
                )
                sys.exit(f"{name} at {url} is not ready: {error} {detail}")
            time.sleep(1)


def main(api, gateway, key_file):
    wait_until_ready("the api", api)
    wait_until_ready("the gateway", gateway)
    key = Path(key_file).read_text(encoding="ascii").strip()
    name = f"helm-test-{uuid.uuid4().hex[:8]}"
    document = {"kind": "command", "name": name, "project": "default", "command": "echo hello"}
    job = ask("POST", f"{api}/api/v1/jobs", key, document)
    try:
        listed = ask("GET", f"{api}/api/v1/jobs?name={name}", key)
        if job["id"] not in [item["id"] for item in listed["items"]]:
            sys.exit(f"job {name} was accepted and is not listed")
    finally:
        ask("POST", f"{api}/api/v1/jobs/{job['id']}/cancel", key, {})
    print(f"job {name} was submitted, listed and cancelled")
    ask("GET", f"{gateway}/v1/models", key)
    print("the gateway knows the key")


if __name__ == "__main__":
    main(*sys.argv[1:])
