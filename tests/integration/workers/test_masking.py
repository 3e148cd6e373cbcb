"""A program that does its best to print its secrets."""

from __future__ import annotations

from pathlib import Path

from worker_recorder import Recorder

TOKEN = "hf_s3cr3t/t0ken+with=signs"
SCRIPT = """
import base64, json, os, sys, time, urllib.parse
from quarterdeck_workers import report
token = open(os.environ["QUARTERDECK_SECRETS_DIR"] + "/TOKEN").read()
print("plain", token)
print("url https://x/?t=" + urllib.parse.quote(token, safe=""))
print("basic", base64.b64encode(b"user:" + token.encode()).decode())
print(json.dumps({"token": token}))
for part in (token[:5], token[5:9], token[9:]):
    os.write(1, part.encode()); time.sleep(0.3)
print(flush=True)
os.write(2, b"x" * 16380 + token.encode() + b"\\n")
report(1, {token: 1.0})
print(len(token), flush=True)
raise RuntimeError(f"cannot log in with {token}")
"""


def test_no_form_of_a_secret_leaves_the_node(
    recorder: Recorder, machine: object, tmp_path: Path
) -> None:
    (tmp_path / "leak.py").write_text(SCRIPT)
    spec = {"command": "python -u leak.py", "workdir": str(tmp_path)}
    run = recorder.submit("leaks", "command", spec, secrets={"TOKEN": TOKEN})
    final = recorder.ended(run)
    assert final.failure is not None
    assert "cannot log in with ***" in final.failure.traceback
    lines = recorder.lines(run)
    assert "plain ***" in lines and "***" in lines and str(len(TOKEN)) in lines
    said = "".join(beat.model_dump_json() for beat in recorder.received[run])
    for part in (TOKEN, TOKEN[:6], "t0ken", "s3cr3t", "aGZfczNjcjN0"):
        assert part not in said, part
