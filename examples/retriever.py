"""A retriever and reranker in one file, by words alone: `retriever.py FOLDER HOST PORT`.

It reads the text files below FOLDER once, cuts them into passages, and ranks passages by BM25
(Robertson and Zaragoza, The Probabilistic Relevance Framework, 2009). Standard library only.

    POST /v1/vector_stores/ANY/search   {"query", "max_num_results"}        as OpenAI's
    POST /v1/rerank                     {"query", "documents", "top_n"}     as Jina's and Cohere's
"""

from __future__ import annotations

import json
import math
import re
import signal
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SUFFIXES = (".md", ".rst", ".txt")
LARGEST_FILE = 10 * 2**20
LARGEST_BODY = 16 * 2**20
PASSAGE = 1000  # characters, about
K1, B = 1.2, 0.75  # how soon repeated words and long passages stop counting
WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    return [word.lower() for word in WORD.findall(text)]


def passages(text: str) -> list[str]:
    """Paragraphs, put together as long as they are short."""
    found: list[str] = []
    for piece in re.split(r"\n\s*\n", text):
        paragraph = piece.strip()
        if found and len(found[-1]) + len(paragraph) < PASSAGE:
            found[-1] = f"{found[-1]}\n\n{paragraph}".strip()
        elif paragraph:
            found.append(paragraph)
    return found


class Index:
    """BM25 over texts."""

    def __init__(self, texts: list[str]) -> None:
        self.counts = [Counter(words(text)) for text in texts]
        self.lengths = [counts.total() for counts in self.counts]
        self.mean = sum(self.lengths) / max(len(texts), 1) or 1.0
        self.having = Counter(word for counts in self.counts for word in counts)

    def best(self, query: str, most: int) -> list[tuple[int, float]]:
        """Number and score of the texts that have a word of the query, the best first."""
        scores: dict[int, float] = {}
        for word in set(words(query)):
            having = self.having[word]
            rarity = math.log(1 + (len(self.counts) - having + 0.5) / (having + 0.5))
            for number, counts in enumerate(self.counts if having else ()):
                if count := counts[word]:
                    long = K1 * (1 - B + B * self.lengths[number] / self.mean)
                    gain = rarity * count * (K1 + 1) / (count + long)
                    scores[number] = scores.get(number, 0.0) + gain
        return sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:most]


class Handbook:
    """The passages of a folder's text files."""

    def __init__(self, folder: Path) -> None:
        self.names: list[str] = []
        self.texts: list[str] = []
        for path in sorted(folder.rglob("*")):
            if path.suffix in SUFFIXES and path.stat().st_size <= LARGEST_FILE:
                for text in passages(path.read_text(encoding="utf-8", errors="replace")):
                    self.names.append(str(path.relative_to(folder)))
                    self.texts.append(text)
        self.index = Index(self.texts)

    def search(self, asked: dict) -> dict:
        found = self.index.best(str(asked["query"]), int(asked.get("max_num_results", 10)))
        data = [
            {
                "file_id": f"passage-{number}",
                "filename": self.names[number],
                "score": score / (1 + score),  # OpenAI's lie between 0 and 1
                "attributes": {},
                "content": [{"type": "text", "text": self.texts[number]}],
            }
            for number, score in found
        ]
        page = {"object": "vector_store.search_results.page", "search_query": [asked["query"]]}
        return {**page, "data": data, "has_more": False, "next_page": None}


def rerank(asked: dict) -> dict:
    texts = [str(text) for text in asked["documents"]]
    scores = dict(Index(texts).best(str(asked["query"]), len(texts)))
    order = sorted(range(len(texts)), key=lambda number: -scores.get(number, 0.0))
    results = [
        {"index": number, "relevance_score": scores.get(number, 0.0)}
        for number in order[: int(asked.get("top_n", len(texts)))]
    ]
    return {"model": asked.get("model", ""), "results": results}


def handler(handbook: Handbook) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60

        def log_message(self, *_: object) -> None:
            return

        def answer(self, status: int, content: object) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            if self.path == "/health":
                self.answer(200, {"passages": len(handbook.texts)})
            else:
                self.answer(404, {"error": {"message": f"{self.path} does not exist"}})

        def do_POST(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            if length > LARGEST_BODY:
                self.close_connection = True
                return self.answer(413, {"error": {"message": "the body is too large"}})
            text = self.rfile.read(length)
            try:
                asked = json.loads(text)
                if re.fullmatch(r"/v1/vector_stores/[^/]+/search", self.path):
                    return self.answer(200, handbook.search(asked))
                if self.path == "/v1/rerank":
                    return self.answer(200, rerank(asked))
            except (KeyError, TypeError, ValueError) as error:
                return self.answer(400, {"error": {"message": f"the request: {error!r}"}})
            return self.answer(404, {"error": {"message": f"{self.path} does not exist"}})

    return Handler


def main() -> None:
    folder, host, port = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    handbook = Handbook(folder)
    print(f"{len(handbook.texts)} passages of {folder}", flush=True)
    server = ThreadingHTTPServer((host, port), handler(handbook))
    server.daemon_threads = True
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever()


if __name__ == "__main__":
    main()
