"""`quarterdeck demo`: the whole way on one machine, every step as a user would take it.

Start the platform, register real text, train a small LLaMA on 8 ranks, kill one of them, see the
run resume, measure the model, serve it, ask it, and show what happened. Everything goes through
REST; only the kill reaches past it, as a failing machine would.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console

from quarterdeck.client import Client
from quarterdeck.processes.demo_view import View, duration, progress_line
from quarterdeck.specs.loading import load_documents
from quarterdeck.specs.resources import Job, Run

TOKENS = 32
PROMPT = "def main():\n    parser = argparse.ArgumentParser("
DATASET, TRAINING, EVALUATION = "stdlib", "llama-stdlib", "stdlib-perplexity"
CHAIN = ("bpe-4k", "stdlib-tokens", TRAINING)
SERVICE = "stdlib-writer"
ENDED = ("succeeded", "failed", "cancelled")


class DemoFailed(Exception):
    """A step of the demo did not do what it must; the message says which and why."""


@dataclass
class Story:
    """What happened, for the table at the end."""

    first_loss: float | None = None
    first_loss_after: float | None = None
    killed_step: int | None = None
    resumed_from: int | None = None
    first_step: int | None = None
    resume_seconds: float | None = None
    rows: list[tuple[str, str]] = field(default_factory=list)


def examples_folder() -> Path:
    """The shipped examples: beside the sources, or inside the installed package."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parents[1] / "examples", package / "examples"):
        if (folder / "pretrain-3d.yaml").exists():
            return folder
    raise DemoFailed("the examples are missing from this installation: install it again")


class Demo:
    """The demo's steps over one client. `sleep` and `clock` are seconds."""

    def __init__(
        self,
        client: Client,
        gateway_url: str,
        key: str,
        view: View,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.client = client
        self.gateway_url = gateway_url
        self._key = key
        self.view = view
        self.clock = clock
        self.sleep = sleep
        self.story = Story()

    # --- steps ---------------------------------------------------------------------------------

    def register_text(self) -> None:
        """Register the standard library's sources, and wait for the version."""
        document: dict[str, object] = {
            "kind": "dataset",
            "name": DATASET,
            "uri": f"file://{sysconfig.get_path('stdlib')}",
            "include": ["**/*.py"],
            "exclude": ["**/site-packages/**", "**/__pycache__/**"],
            "held_out": "2%",
        }
        self._apply([document])

    def apply_chain(self) -> None:
        """Apply the shipped example: tokenizer, token shards, training, evaluation."""
        path = examples_folder() / "pretrain-3d.yaml"
        loaded = load_documents(path.read_text(encoding="utf-8"), path.name)
        self._apply([document.data for document in loaded])

    def follow_dataset(self) -> None:
        """Show the registered version: hash, files, split."""
        self._finish(DATASET)
        version = self.client.datasets.get(DATASET)
        facts = version.metadata
        self.view.fact(
            f"dataset/{DATASET}@{version.version} · sha256 {version.digest[:16]}… · "
            f"{facts.get('files', '?')} files, {version.size / 1e6:.1f} MB, "
            f"{facts.get('held_out_bytes', 0) / 1e6:.2f} MB held out by content"
        )

    def train_and_kill(self) -> None:
        """Follow the chain, kill a rank in the middle of training, and see the resume."""
        for name in CHAIN[:-1]:
            self._finish(name)
        killed: Run | None = None
        while True:
            job = self.client.jobs.get(TRAINING)
            step, total = job.progress.step or 0, job.progress.steps_total or 0
            if self.story.first_loss is None and job.progress.loss is not None:
                self.story.first_loss = job.progress.loss
                self.story.first_loss_after = self.view.elapsed
                self.view.fact(
                    f"first loss {job.progress.loss:.3f}, "
                    f"{duration(self.view.elapsed)} after the platform was up"
                )
            if killed is None and total and step >= total * 0.45 and job.phase == "running":
                killed = self._kill_rank(job)
            elif killed is not None and self.story.first_step is None:
                self._watch_resume(killed)
            self.view.progress(progress_line(job))
            if job.phase in ENDED:
                break
            self.sleep(0.5)
        if job.phase != "succeeded":
            raise DemoFailed(self._blame(job))
        if killed is not None and self.story.first_step is None:
            self._watch_resume(killed)
        self.view.fact(progress_line(job))
        if killed is None:
            self.view.fact("training had ended before: nothing was killed this time")

    def measure(self) -> None:
        """Held-out perplexity and bits per byte, beside general-purpose compressors."""
        job = self._finish(EVALUATION)
        results = job.results
        names = (
            ("perplexity", "perplexity on held-out text"),
            ("bits_per_byte", "bits per byte, this model"),
            ("unigram_bits_per_byte", "bits per byte, unigram"),
            ("gzip_bits_per_byte", "bits per byte, gzip -9"),
            ("xz_bits_per_byte", "bits per byte, xz -9"),
        )
        for name, title in names:
            if isinstance(value := results.get(name), (int, float)):
                self.view.fact(f"{title}: {value:.3f}")
                self.story.rows.append((title, f"{value:.3f}"))
        model, unigram = results.get("bits_per_byte"), results.get("unigram_bits_per_byte")
        if isinstance(model, float) and isinstance(unigram, float) and model > 0.8 * unigram:
            raise DemoFailed(
                f"the model needs {model:.3f} bits per byte, more than 0.8 of a unigram model's "
                f"{unigram:.3f}: it did not learn"
            )

    def serve(self) -> None:
        """Deploy one replica and wait until it has really generated a token."""
        path = examples_folder() / "service.yaml"
        loaded = load_documents(path.read_text(encoding="utf-8"), path.name)
        self._apply([document.data for document in loaded])
        deadline = self.clock() + 180
        while (service := self.client.services.get(SERVICE)).ready_replicas < 1:
            self.view.progress(f"service/{SERVICE} · {service.phase} · {service.message}")
            if self.clock() > deadline:
                raise DemoFailed(f"service/{SERVICE} is not ready: {service.message}")
            self.sleep(0.5)
        self.view.fact(f"service/{SERVICE} ready · model {service.model_version}")

    def ask(self) -> None:
        """Stream an answer with the stock client, and hold it against plain transformers."""
        from openai import OpenAI

        with OpenAI(
            base_url=f"{self.gateway_url}/v1", api_key=self._key, timeout=60, max_retries=2
        ) as client:
            self.view.fact(f"asking {SERVICE} through the gateway:")
            text = ""
            self.view.write(PROMPT)
            with client.completions.create(
                model=SERVICE, prompt=PROMPT, max_tokens=TOKENS, temperature=0, stream=True
            ) as stream:
                for chunk in stream:
                    if chunk.choices:
                        piece = chunk.choices[0].text
                        text += piece
                        self.view.write(piece)
            self.view.write("\n")
        self._compare(text)

    def summary(self) -> None:
        """The table of what happened."""
        story = self.story
        job = self.client.jobs.get(TRAINING)
        runs = sorted(self.client.jobs.runs(job.id), key=lambda run: run.epoch)
        rows = []
        for name in (DATASET, *CHAIN, EVALUATION):
            one = self.client.jobs.get(name)
            if one.started_at and one.ended_at:
                seconds = (one.ended_at - one.started_at).total_seconds()
                rows.append((f"job/{name}", f"{one.phase} in {duration(seconds)}"))
        if story.first_loss_after is not None:
            rows.append(("first loss after", duration(story.first_loss_after)))
        if story.killed_step is not None:
            rows.append(("rank killed at step", str(story.killed_step)))
            rows.append(
                ("resumed", f"from checkpoint {story.resumed_from}, first step {story.first_step}")
            )
            if story.resumed_from is not None:
                rows.append(("steps lost", str(story.killed_step - story.resumed_from)))
            rows.append(("kill → first step after", duration(story.resume_seconds)))
        rows.append(("attempts", str(len(runs))))
        if job.progress.goodput is not None:
            rows.append(("goodput", f"{job.progress.goodput:.1%}"))
        if story.first_loss is not None and job.progress.loss is not None:
            rows.append(("loss", f"{story.first_loss:.3f} → {job.progress.loss:.3f}"))
        rows += story.rows
        rows.append(("whole demo", duration(self.view.elapsed)))
        rows.append(("api", self.client.url))
        rows.append(("gateway (any OpenAI client)", f"{self.gateway_url}/v1"))
        self.view.table("What happened", rows)

    # --- helpers -------------------------------------------------------------------------------

    def _apply(self, documents: list[dict[str, object]]) -> None:
        for applied in self.client.apply(documents).results:
            self.view.fact(f"{applied.kind}/{applied.name} {applied.action} {applied.message}")

    def _finish(self, name: str) -> Job:
        """Follow a job to its end; raises DemoFailed when it does not succeed."""
        while (job := self.client.jobs.get(name)).phase not in ENDED:
            self.view.progress(progress_line(job))
            self.sleep(0.3)
        if job.phase != "succeeded":
            raise DemoFailed(self._blame(job))
        made = f" · {', '.join(job.outputs)}" if job.outputs else ""
        self.view.fact(f"job/{name} succeeded{made}")
        return job

    def _blame(self, job: Job) -> str:
        lines = [f"job/{job.name} {job.phase}: {job.reason}: {job.message}"]
        if job.failure is not None and job.failure.traceback:
            lines.append(job.failure.traceback)
        lines.append(f"look further with: quarterdeck describe job/{job.name}")
        return "\n".join(lines)

    def _kill_rank(self, job: Job) -> Run | None:
        """SIGKILL one rank's process once a checkpoint of this job is registered."""
        run = self.client.runs.get(job.run_id) if job.run_id else None
        if run is None or not list(self.client.jobs.checkpoints(job.id)):
            return None
        victim = run.ranks[-1] if run.ranks else None
        if victim is None or victim.pid is None:
            return None
        try:
            os.kill(victim.pid, signal.SIGKILL)
        except ProcessLookupError:
            return None
        self.story.killed_step = job.progress.step
        self._killed_at = self.clock()
        self.view.fact(
            f"kill -9 of rank {victim.rank} (pid {victim.pid}) at step {job.progress.step}"
        )
        return run

    def _watch_resume(self, killed: Run) -> None:
        """Note the first step of the attempt that follows the killed one."""
        for run in self.client.jobs.runs(killed.owner_id):
            if run.epoch <= killed.epoch or run.first_step is None:
                continue
            self.story.resumed_from = run.resumed_from_step
            self.story.first_step = run.first_step
            self.story.resume_seconds = self.clock() - self._killed_at
            self.view.fact(
                f"attempt {run.attempt} resumed from checkpoint {run.resumed_from_step}: "
                f"its first step is {run.first_step}"
            )
            if run.resumed_from_step is None or run.first_step != run.resumed_from_step + 1:
                raise DemoFailed(
                    f"the run resumed at step {run.first_step} instead of the step after the "
                    f"last registered checkpoint, {run.resumed_from_step}"
                )
            return

    def _compare(self, text: str) -> None:
        version = self.client.models.get(TRAINING)
        folder = urlsplit(version.uri).path
        command = [
            sys.executable, "-m", "quarterdeck_workers.evaluation.generate", folder,
            "--prompt", PROMPT, "--tokens", str(TOKENS),
        ]  # fmt: skip
        answer = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
        if answer.returncode:
            raise DemoFailed(f"transformers could not open the export {folder}:\n{answer.stderr}")
        reference = json.loads(answer.stdout.splitlines()[-1])
        if text != reference["text"] and min(reference["margins"]) >= 1e-4:
            raise DemoFailed(
                f"the service wrote {text!r}, transformers with the export {reference['text']!r}"
            )
        self.view.fact(
            f"the {len(reference['tokens'])} greedy tokens equal transformers' own from the export"
        )


def run_demo(client: Client, gateway_url: str, key: str, console: Console) -> None:
    """Take every step in order on a platform that is up. Raises DemoFailed."""
    demo = Demo(client, gateway_url, key, View(console))
    chapters: list[tuple[str, tuple[Callable[[], None], ...]]] = [
        ("Register the Python standard library's sources", (demo.register_text,)),
        ("Apply examples/pretrain-3d.yaml", (demo.apply_chain, demo.follow_dataset)),
        ("Train with data × tensor × pipeline = 2 × 2 × 2; kill a rank", (demo.train_and_kill,)),
        ("Measure on held-out text", (demo.measure,)),
        ("Serve the model", (demo.serve,)),
        ("Ask it", (demo.ask,)),
    ]
    try:
        for number, (title, steps) in enumerate(chapters, start=1):
            demo.view.chapter(number, title)
            for step in steps:
                step()
        demo.summary()
    finally:
        demo.view.settle()
