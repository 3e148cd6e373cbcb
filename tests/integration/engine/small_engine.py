"""A small server of OpenAI's API for tests: `small_engine.py HOST PORT MODEL FOLDER`.

It behaves as files in FOLDER say: `hang` (accepts and says nothing), `work` (the same, while its
token counter grows), `garbage`, `error`; `slow` makes a request take its number of seconds.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HOST, PORT, MODEL, FOLDER = sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
counts = {"running": 0, "tokens": 0}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, text: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def do_GET(self) -> None:
        if (FOLDER / "hang").exists():
            time.sleep(60)
        if self.path == "/metrics":
            if (FOLDER / "work").exists():
                counts["tokens"] += 1
            self.answer(
                f'vllm:num_requests_running{{model_name="m"}} {counts["running"]}\n'
                f"vllm:num_requests_waiting 0\nvllm:kv_cache_usage_perc 0.25\n"
                f"vllm:generation_tokens_total {counts['tokens']}\n"
            )
        else:
            self.answer("ok", 200 if self.path == "/up" else 404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if (FOLDER / "hang").exists() or (FOLDER / "work").exists():
            time.sleep(60)
        if (FOLDER / "error").exists():
            return self.answer('{"error": {"message": "broken"}}', 500)
        if (FOLDER / "garbage").exists():
            return self.answer('{"choices": [{"message": null}]}')
        assert body["model"] == MODEL
        counts["running"] += 1
        if (FOLDER / "slow").exists():
            time.sleep(float((FOLDER / "slow").read_text()))
        counts["tokens"] += 1
        counts["running"] -= 1
        text = {"choices": [{"message": {"role": "assistant", "content": "x"}}]}
        return self.answer(json.dumps({**text, "usage": {"completion_tokens": 1}}))


print("small engine starts", flush=True)
server = ThreadingHTTPServer((HOST, PORT), Handler)
signal.signal(
    signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown, daemon=True).start()
)
server.serve_forever()
server.block_on_close = False
print("small engine ends", flush=True)
sys.exit(0)
