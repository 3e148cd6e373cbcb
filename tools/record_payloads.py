"""Record what this version's agent, supervisors and api really say to each other:

    PYTHONPATH=platform:workers python tools/record_payloads.py tests/integration/api/recorded/0.1

A whole platform with its own Ray runs three jobs; each kind of message is kept once, and the
schemas of the answers beside. Run it before a release changes the protocol: the tests replay every
folder to the newest api. What names the machine or opens a door is replaced.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from quarterdeck.api.app import create_app
from quarterdeck.api.settings import ApiSettings
from quarterdeck.artifacts import ArtifactStore
from quarterdeck.client.config import read_key
from quarterdeck.controller.loop import Controller
from quarterdeck.processes.api import seed
from quarterdeck.processes.home import Home, prepare
from quarterdeck.specs.beats import BeatReply
from quarterdeck.specs.protocol import AgentWork, RunOrder
from quarterdeck.store import migrate
from quarterdeck.store.sessions import Database
from quarterdeck_workers.agent import stop_ray

STEPS = """
from pathlib import Path
from quarterdeck_workers import report
for step in (1, 2, 3):
    folder = Path(f"saved-{step}")
    folder.mkdir(exist_ok=True)
    (folder / "weights").write_text(str(step))
    print("step", step, flush=True)
    report(step, {"loss": 3.0 / step}, checkpoint=folder, steps_total=3)
"""
LIMIT_S = 400.0


def jobs(folder: Path) -> list[dict[str, Any]]:
    """One that reports steps and checkpoints, one that fails, one that publishes a version."""
    (folder / "steps.py").write_text(STEPS)
    (folder / "texts").mkdir()
    (folder / "texts" / "one.txt").write_text("text")
    python = sys.executable
    common = {"max_restarts": 0, "resources": {"accelerator": "cpu"}}
    return [
        {"kind": "command", "name": "steps", "command": f"{python} {folder}/steps.py", **common,
         "env": {"PYTHONPATH": os.environ["PYTHONPATH"]}, "secrets": ["TOKEN"]},
        {"kind": "command", "name": "fails", "command": "echo no >&2; exit 3", **common},
        {"kind": "dataset", "name": "texts", "uri": (folder / "texts").as_uri(), **common},
    ]  # fmt: skip


class Recording:
    """An ASGI app that keeps bodies of what machines say, the first and the last of each kind."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.kept: dict[str, dict[str, Any]] = {}
        self.beats: dict[str, list[dict[str, Any]]] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or not re.search(r"/(agents|runs)/[^/]+/\w+$", path):
            await self._app(scope, receive, send)
            return
        asked, answered, status = bytearray(), bytearray(), [0]

        async def hear() -> Any:
            message = await receive()
            asked.extend(message.get("body", b""))
            return message

        async def say(message: Any) -> None:
            status[0] = message.get("status", status[0])
            answered.extend(message.get("body", b""))
            await send(message)

        await self._app(scope, hear, say)
        if status[0] == 200:
            request = json.loads(asked) if asked else None
            self._keep(path.split("/")[-3:], request, json.loads(answered))

    def _keep(self, path: list[str], request: Any, answer: Any) -> None:
        noun, identity, verb = path
        pair = {"request": request, "answer": answer}
        if noun == "runs" and verb == "beat":
            self.beats.setdefault(identity, []).append(pair)
        elif verb == "claim":
            self.kept[f"claim-{answer['owner_name']}"] = pair
        elif verb == "work" and answer["start"]:
            self.kept.setdefault("agent-work", pair)
        elif verb == "beat":
            self.kept["agent-beat-with-runs" if request["runs"] else "agent-beat"] = pair


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--port", type=int, default=18080)
    parser.add_argument("--node-ip", default="127.0.0.9")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="qd-record-") as name:
        folder = Path(name)
        recording = record(folder, chosen.port, chosen.node_ip)
        write(chosen.out, recording, folder)


def record(folder: Path, port: int, node_ip: str) -> Recording:
    """Run the platform until every job has ended."""
    home = Home(folder / "home")
    prepare(home)
    migrate.upgrade(home.database_url)
    database = Database.open(home.database_url)
    seed(database, home)
    url = f"http://127.0.0.1:{port}"
    settings = ApiSettings(
        database=database, artifacts_uri=home.artifacts_uri, api_url=url,
        master_key=read_key(home.master_key),
    )  # fmt: skip
    recording = Recording(create_app(settings))
    server = uvicorn.Server(uvicorn.Config(recording, port=port, log_level="warning"))
    stop = threading.Event()
    controller = Controller(database, ArtifactStore(home.artifacts_uri))
    threads = [
        threading.Thread(target=server.run),
        threading.Thread(target=controller.run, args=(stop,)),
    ]
    for thread in threads:
        thread.start()
    command = [
        sys.executable, "-m", "quarterdeck.processes.main", "agent", "--url", url, "--slots", "4",
        "--node-ip", node_ip, "--cluster", "recorded",
    ]  # fmt: skip
    environment = {**os.environ, "QUARTERDECK_HOME": str(home.folder)}
    agent = subprocess.Popen(command, env=environment)
    try:
        headers = {"Authorization": f"Bearer {read_key(home.admin_key)}"}
        with httpx.Client(base_url=f"{url}/api/v1", headers=headers, trust_env=False) as http:
            wait_for(lambda: http.get("/whoami").is_success)
            http.put("/secrets/TOKEN", json={"value": "hunter2"}).raise_for_status()
            for job in jobs(folder):
                http.post("/jobs", json=job).raise_for_status()
            ended = {"succeeded", "failed", "cancelled"}
            wait_for(lambda: {job["phase"] for job in http.get("/jobs").json()["items"]} <= ended)
    finally:
        agent.terminate()
        agent.wait(60)
        stop_ray(home.folder)
        stop.set()
        server.should_exit = True
        for thread in threads:
            thread.join(30)
        database.close()
    return recording


def wait_for(what: Any) -> None:
    """Until `what()`; raises TimeoutError."""
    until = time.monotonic() + LIMIT_S
    while True:
        try:
            if what():
                return
        except httpx.HTTPError:
            pass
        if time.monotonic() > until:
            raise TimeoutError("the jobs did not end")
        time.sleep(0.5)


def write(out: Path, recording: Recording, folder: Path) -> None:
    """Everything as JSON files, without what is this machine's or secret."""
    out.mkdir(parents=True, exist_ok=True)
    names = {pair["answer"]["run_id"]: pair["answer"]["owner_name"]
             for pair in recording.kept.values() if "run_key" in pair["answer"]}  # fmt: skip
    found: dict[str, Any] = dict(recording.kept)
    for run, beats in recording.beats.items():
        found[f"run-beats-{names[run]}"] = beats
    schemas = {
        model.__name__: model.model_json_schema() for model in (AgentWork, RunOrder, BeatReply)
    }
    found["schemas"] = schemas
    for name, content in found.items():
        text = json.dumps(content, indent=1, sort_keys=True)
        text = text.replace(str(folder), "/recorded").replace(socket.gethostname(), "host")
        text = text.replace(sys.executable, "python").replace(str(Path.cwd()), "/source")
        text = re.sub(r'"(run_key|ray_token)": "[^"]*"', r'"\1": "recorded"', text)
        for path in os.environ["PYTHONPATH"].split(os.pathsep):
            text = text.replace(path, "/source")
        (out / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
