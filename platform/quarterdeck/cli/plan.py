"""`plan`: what a training needs on the hardware, before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from quarterdeck.cli.documents import Files, load
from quarterdeck.cli.output import Column, amount, duration, show_one, size, table
from quarterdeck.cli.session import REFUSED, Output, Project, connect, note, refuse

if TYPE_CHECKING:
    from quarterdeck.planner.estimate import LayoutPlan
    from quarterdeck.planner.plan import Plan
    from quarterdeck.specs.training import Parallelism

MOST_REASONS = 5


def plan(
    files: Files,
    rejected: Annotated[bool, typer.Option("--rejected", help="Every rejected layout.")] = False,
    project: Project = None,
    output: Output = "table",
) -> None:
    """Say what a training needs before it runs.

    For each `pretrain` document: memory, time, money, layouts, and why not others. Exit code 1
    when one does not fit.

    Example: quarterdeck plan -f examples/pretrain-3d.yaml
    """
    documents = [document for document in load(files) if document.spec.kind == "pretrain"]
    if not documents:
        refuse("no document of kind pretrain: only these are planned")
    fits = True
    with connect(project) as client:
        for document in documents:
            found = client.plan(document.data)
            fits = fits and found.fits
            if output in ("json", "yaml"):
                show_one(found, output)
            else:
                print(f"{document.noun}: {found.message}")
                _show(found, every=rejected, wide=output == "wide")
    if not fits:
        raise typer.Exit(REFUSED)


def degrees_name(degrees: Parallelism) -> str:
    """`data 2 × tensor 2 × pipeline 2, zero 1`."""
    name = f"data {degrees.data} × tensor {degrees.tensor} × pipeline {degrees.pipeline}"
    return f"{name}, zero {degrees.zero}" + (", sequence" if degrees.sequence else "")


def _show(found: Plan, *, every: bool, wide: bool) -> None:
    training = found.training
    flops = "" if training.total_flops is None else f" · {training.total_flops:.3g} FLOPs"
    print(
        f"{amount(found.parameters.total)} parameters · {found.ranks} × {found.accelerator.name} · "
        f"{found.precision} · {amount(training.tokens)} tokens{flops} · MFU {training.mfu:.0%}"
    )
    columns: list[Column[LayoutPlan]] = [
        Column("LAYOUT", lambda one: degrees_name(one.parallelism)),
        Column("MEM/RANK", lambda one: size(round(one.memory.total))),
        Column("FIT", lambda one: f"{'yes' if one.fits else 'NO'} {one.memory_share:.0%}"),
        Column("BUBBLE", lambda one: f"{one.bubble:.0%}"),
        Column("STEP", lambda one: f"{one.step_seconds:.3g}s"),
        Column("TIME", lambda one: duration(one.seconds)),
        Column("HOURS", lambda one: amount(one.accelerator_hours)),
        Column("COST", lambda one: "-" if one.cost is None else f"${one.cost:,.2f}"),
        Column("TOK/S", lambda one: amount(one.tokens_per_second), wide=True),
        Column("MICRO-BATCH", lambda one: f"{one.micro_batch_size}×{one.micro_batches}", wide=True),
    ]
    layouts = found.layouts
    if found.layout is not None and found.layout not in layouts:
        layouts = [found.layout, *layouts]
    if layouts:
        print(table(layouts, columns, wide=wide))
    reasons = found.rejected if every else found.rejected[:MOST_REASONS]
    for one in reasons:
        print(f"rejected: {degrees_name(one.parallelism)}: {one.reason}")
    if len(reasons) < len(found.rejected):
        note(f"{len(found.rejected) - len(reasons)} more: --rejected")
    for remedy in found.remedies:
        fit = "fits then" if remedy.fits else "not enough alone"
        print(f"remedy: {remedy.change} ({fit}; {remedy.price})")
    for text in found.notes:
        note(text)
