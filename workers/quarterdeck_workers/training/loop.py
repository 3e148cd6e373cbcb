"""The training loop: steps, agreement, metrics, checkpoints, stops."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

from quarterdeck.specs.beats import CheckpointManifest
from quarterdeck_workers.checkpoint.errors import SaveFailed
from quarterdeck_workers.checkpoint.restore import open_checked
from quarterdeck_workers.checkpoint.save import Progress, save
from quarterdeck_workers.data.loader import Batch
from quarterdeck_workers.training.agreement import Agreement, agree
from quarterdeck_workers.training.checkpoint_plan import CheckpointPlan
from quarterdeck_workers.training.engine import effective_zero
from quarterdeck_workers.training.errors import Diverged
from quarterdeck_workers.training.metrics import (
    StepClock,
    loss_metrics,
    memory_metrics,
    speed_metrics,
)
from quarterdeck_workers.training.pieces import export_pieces, load_pieces
from quarterdeck_workers.training.recipe import sample_indices
from quarterdeck_workers.training.session import Session


class Loop:
    """Where a training stands on this rank. Every decision is taken alike on all ranks."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.clock = StepClock()
        self.done = 0
        """The last step that is part of the weights."""
        self.loss: float | None = None
        self.saved: CheckpointManifest | None = None
        self._first_sample = 0
        self._wanted = False
        """Whether a save has come due that had to wait."""
        self._told = time.perf_counter()
        """When the last step or save was over: the next step's time counts from here."""
        self._memory: dict[str, float] = {}
        resume = session.context.order.resume
        if resume is not None:
            self._resume(resume.manifest)
        self.plan = CheckpointPlan(
            session.spec.checkpoints, session.context.order.mean_time_to_failure, self.done
        )

    def _resume(self, manifest: CheckpointManifest) -> None:
        session = self.session
        session.context.phase(f"loading the checkpoint of step {manifest.step}")
        cache = session.context.workdir / "resume"
        ranks = session.layout.ranks
        with open_checked(
            session.store, manifest, cache, rank=session.layout.rank, ranks=ranks
        ) as reader:
            engine = session.engine
            load_pieces(
                engine.module, engine.optimizer, session.architecture, reader,
                rounds=session.rounds,
            )  # fmt: skip
        self.done, self.loss, self.saved = manifest.step, manifest.loss, manifest
        seen = session.recipe.batches.samples_through(manifest.step)
        self._first_sample = manifest.sample_index - seen

    def run(self) -> CheckpointManifest | None:
        """Train to the end; answers the last checkpoint, or None when asked to stop before."""
        session = self.session
        session.context.phase("training", running=True)
        self._told = time.perf_counter()
        for step in range(self.done + 1, session.recipe.steps + 1):
            agreement = self._step(step)
            last = step == session.recipe.steps
            if agreement.stop and not last:
                if agreement.checkpoint_before_stop:
                    self._try_to_save(agreement.step_seconds)
                return None
            if last:
                self.saved = self._save()
            elif self._due(step):
                self._try_to_save(agreement.step_seconds)
        return self.saved

    def _due(self, step: int) -> bool:
        """Whether to save after `step`: where replicas train by themselves, when they next meet."""
        self._wanted = self._wanted or self.plan.due(step)
        rounds = self.session.rounds
        if rounds is not None and not rounds.ends_after(step):
            return False
        wanted, self._wanted = self._wanted, False
        return wanted

    def _step(self, step: int) -> Agreement:
        session, recipe = self.session, self.session.recipe
        started = time.perf_counter()
        rate = recipe.learning_rate_at(step)
        norm = session.engine.train_step(self._batches(step), recipe.micro_batches_at(step), rate)
        if session.rounds is not None:
            session.rounds.stepped()
            if session.rounds.ends_after(step):
                session.rounds.meet()
        seconds = time.perf_counter() - started
        agreement = agree(
            session.context.stop_requested, seconds, session.plan.loss.take(),
            rank=session.layout.rank, counts_losses=session.counts_losses, device=session.device,
        )  # fmt: skip
        losses = loss_metrics(agreement.losses, session.loader.domain_names)
        self._check_finite(step, losses["loss"], norm, rate)
        self.done, self.loss = step, losses["loss"]
        self.clock.add(agreement.step_seconds, recipe.batches.size_at(step))
        if not self._memory:
            self._memory = self._measure_memory()
        self._report(step, losses, norm, rate, agreement.step_seconds)
        return agreement

    def _batches(self, step: int) -> Iterator[Batch]:
        session, recipe = self.session, self.session.recipe
        for micro_batch in range(recipe.micro_batches_at(step)):
            indices = sample_indices(
                recipe, step=step, micro_batch=micro_batch, replica=session.layout.replica,
                first=self._first_sample,
            )  # fmt: skip
            batch = session.loader.batch(indices)
            device = session.device
            yield Batch(batch.inputs.to(device), batch.targets.to(device), batch.domains.to(device))

    def _check_finite(self, step: int, loss: float, norm: float, rate: float) -> None:
        last_saved = self.saved.step if self.saved else None
        if not math.isfinite(loss):
            raise Diverged(step, f"loss is {loss}", rate, last_saved)
        if not math.isfinite(norm):
            raise Diverged(step, f"gradient norm is {norm}", rate, last_saved)

    def _measure_memory(self) -> dict[str, float]:
        session = self.session
        zero = effective_zero(session.parallelism, session.precision)
        return memory_metrics(
            session.engine.module, session.engine.optimizer, data=session.layout.data, zero=zero,
            expected_activations=session.expected_activations, device=session.device,
            outer=session.rounds.state_bytes if session.rounds else 0,
        )  # fmt: skip

    def _report(
        self, step: int, losses: dict[str, float], norm: float, rate: float, seconds: float
    ) -> None:
        session, recipe = self.session, self.session.recipe
        metrics: dict[str, float] | None = None
        if session.layout.rank == 0:
            metrics = {
                **losses,
                "learning_rate": rate,
                "grad_norm": norm,
                "step_seconds": seconds,
                "tokens": float(recipe.tokens_through(step)),
                "batch_size": float(recipe.batches.size_at(step)),
                **speed_metrics(
                    tokens=recipe.tokens_at(step), seconds=seconds, ranks=session.layout.ranks,
                    flops_per_token=session.flops_per_token, peak_flops=session.peak_flops,
                ),
                **self._memory,
            }  # fmt: skip
            print(f"step {step}/{recipe.steps} loss {losses['loss']:.4f} lr {rate:.3g} "
                  f"grad norm {norm:.3f} {metrics['tokens_per_second']:.0f} tokens/s",
                  flush=True)  # fmt: skip
        began, self._told = self._told, time.perf_counter()
        session.context.step(
            step, metrics, steps_total=recipe.steps, seconds=self._told - began,
            eta_seconds=self.clock.eta(recipe.samples_left(step)),
        )  # fmt: skip

    def _try_to_save(self, step_seconds: float) -> None:
        """Save; a failure is told and training goes on with the previous checkpoint."""
        context, started = self.session.context, time.monotonic()
        if self.saved is not None and self.saved.step == self.done:
            return
        try:
            self.saved = self._save()
            seconds = self.saved.save_seconds
        except SaveFailed as error:
            seconds = time.monotonic() - started if self.session.layout.ranks == 1 else 0.0
            if context.rank == 0:
                context.event(
                    "checkpoint_failed", str(error), step=self.done, disk_full=error.disk_full,
                    seconds=time.monotonic() - started,
                )  # fmt: skip
                print(error, flush=True)
        self.plan.saved(self.done, save_seconds=seconds, step_seconds=self.clock.mean)
        self._told = time.perf_counter()

    def _save(self) -> CheckpointManifest:
        """Write the state after step `done`. Raises SaveFailed on all ranks alike."""
        session, order = self.session, self.session.context.order
        if self.saved is not None and self.saved.step == self.done:
            return self.saved
        recipe, engine = session.recipe, session.engine
        if session.rounds is not None:
            session.rounds.meet()  # a stop, like the last step, ends a round early
            session.rounds.average_moments()
        progress = Progress(
            step=self.done,
            epoch=order.epoch,
            sample_index=self._first_sample + recipe.batches.samples_through(self.done),
            tokens=recipe.tokens_through(self.done),
            loss=self.loss,
            layout=session.layout_numbers,
            state={
                "learning_rate": recipe.learning_rate_at(max(1, self.done)),
                "optimizer_steps": self.done,
                "seed": recipe.seed,
                "vocab_size": session.vocab_size,
                "precision": session.precision,
                "global_batch_size": recipe.global_batch_size,
            },
        )
        manifest = save(
            session.store,
            f"checkpoints/{order.owner_id}/{order.epoch}/{self.done}",
            lambda: export_pieces(
                engine.module, engine.optimizer, session.architecture, session.layout,
                session.data_group, rounds=session.rounds,
            ),
            progress,
            rank=session.layout.rank,
            scratch=session.context.workdir,
        )  # fmt: skip
        if session.layout.rank == 0:
            session.context.checkpoint(manifest)
        return manifest


def train(session: Session) -> CheckpointManifest | None:
    """Resume if the order says so, and train; see `Loop.run`."""
    return Loop(session).run()
