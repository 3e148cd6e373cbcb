"""`jobs` and what is done with one: cancel, retry, suspend, resume, checkpoints, submit."""

from __future__ import annotations

import re
import secrets
import shlex
import time
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quarterdeck.cli.names import of_kind
from quarterdeck.cli.output import Column, age, duration, show, show_one, size, step, table
from quarterdeck.cli.session import USAGE, Output, Project, connect, note, refuse
from quarterdeck.cli.workdirs import upload_workdir

if TYPE_CHECKING:
    from quarterdeck.specs.resources import Checkpoint, Job

JobName = Annotated[str, typer.Argument(metavar="job/NAME", help="The job.")]
REFRESH = 2.0


def _columns() -> list[Column[Job]]:
    return [
        Column("NAME", lambda job: job.name),
        Column("KIND", lambda job: job.kind),
        Column("PHASE", lambda job: job.phase),
        Column("REASON", lambda job: job.reason),
        Column("STEP", _step),
        Column("ETA", lambda job: duration(job.progress.eta_seconds)),
        Column("RANKS", lambda job: job.ranks),
        Column("QUEUE", lambda job: job.queue),
        Column("AGE", lambda job: age(job.created_at)),
        Column("ATTEMPTS", lambda job: job.attempts, wide=True),
        Column("ID", lambda job: job.id, wide=True),
        Column("MESSAGE", lambda job: job.message, wide=True),
    ]


def _step(job: Job) -> str:
    """How far it is: an array counts the members that have ended."""
    if job.array_size is None:
        return step(job.progress.step, job.progress.steps_total)
    ended = sum(job.members.get(phase, 0) for phase in ("succeeded", "failed", "cancelled"))
    return f"{ended}/{job.array_size} jobs"


def jobs(
    phase: Annotated[
        str | None, typer.Option(help="Only jobs in this phase, e.g. running.")
    ] = None,
    kind: Annotated[str | None, typer.Option(help="Only jobs of this kind.")] = None,
    array: Annotated[
        str | None, typer.Option(metavar="job/NAME", help="The members of this array.")
    ] = None,
    all_projects: Annotated[
        bool, typer.Option("-A", "--all-projects", help="Of every project.")
    ] = False,
    limit: Annotated[int, typer.Option(help="At most so many.")] = 50,
    watch: Annotated[bool, typer.Option("-w", "--watch", help="Keep showing them.")] = False,
    project: Project = None,
    output: Output = "table",
) -> None:
    """List jobs, newest first.

    Example: quarterdeck jobs --phase running -o wide
    """
    with connect(project) as client:

        def fetch() -> list[Job]:
            return list(
                client.jobs.list(
                    phase=phase, kind=kind, all_projects=all_projects, limit=limit,  # type: ignore[arg-type]
                    array=of_kind(array, "job") if array else None,
                )
            )  # fmt: skip

        if not watch:
            show(fetch(), _columns(), output, lambda job: f"job/{job.name}", "no jobs")
            return
        from rich.live import Live

        with Live(auto_refresh=False) as live:
            while True:
                live.update(table(fetch(), _columns(), wide=output == "wide"), refresh=True)
                time.sleep(REFRESH)


def cancel(name: JobName, project: Project = None, output: Output = "table") -> None:
    """End a job; a training writes a checkpoint first.

    Example: quarterdeck cancel job/llama-8b
    """
    with connect(project) as client:
        _said(client.jobs.cancel(of_kind(name, "job")), output)


def retry(name: JobName, project: Project = None, output: Output = "table") -> None:
    """Make a new job like one that has ended.

    Example: quarterdeck retry job/llama-8b
    """
    with connect(project) as client:
        _said(client.jobs.retry(of_kind(name, "job")), output)


def suspend(name: JobName, project: Project = None, output: Output = "table") -> None:
    """Write a checkpoint and free the slots until `resume`.

    Example: quarterdeck suspend job/llama-8b
    """
    with connect(project) as client:
        _said(client.jobs.suspend(of_kind(name, "job")), output)


def resume(name: JobName, project: Project = None, output: Output = "table") -> None:
    """Queue a suspended job again.

    Example: quarterdeck resume job/llama-8b
    """
    with connect(project) as client:
        _said(client.jobs.resume(of_kind(name, "job")), output)


def _said(job: Job, output: str) -> None:
    if output in ("json", "yaml"):
        show_one(job, output)
    elif output == "name":
        print(f"job/{job.name}")
    else:
        wish = {"cancel": "cancelling", "suspend": "suspending"}.get(job.desired, "")
        parts = [f"job/{job.name} {job.phase}", wish if job.phase != "cancelled" else ""]
        print(" · ".join(part for part in (*parts, job.message) if part))


def checkpoints(name: JobName, project: Project = None, output: Output = "table") -> None:
    """List a job's registered checkpoints, newest first.

    Example: quarterdeck checkpoints job/llama-8b
    """

    def layout(checkpoint: Checkpoint) -> str:
        return "×".join(str(degree) for degree in checkpoint.manifest.layout.values())

    columns: list[Column[Checkpoint]] = [
        Column("STEP", lambda found: found.step),
        Column("LOSS", lambda found: None if found.loss is None else f"{found.loss:.4f}"),
        Column("SIZE", lambda found: size(found.size)),
        Column("LAYOUT", layout),
        Column("STATE", lambda found: found.state),
        Column("AGE", lambda found: age(found.created_at)),
        Column("EPOCH", lambda found: found.epoch, wide=True),
        Column("URI", lambda found: found.manifest.uri, wide=True),
    ]
    with connect(project) as client:
        found = client.jobs.checkpoints(of_kind(name, "job"))
    show(found, columns, output, lambda checkpoint: checkpoint.id, "no checkpoints yet")


def submit(
    command: Annotated[list[str], typer.Argument(metavar="-- CMD", help="The program to run.")],
    ranks: Annotated[int, typer.Option(help="How many ranks.", min=1)] = 1,
    launch: Annotated[
        str | None, typer.Option(help="per_rank (default), or per_node for torchrun and its like.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The job's name; default: from CMD.")] = None,
    queue: Annotated[str, typer.Option(help="The queue.")] = "default",
    priority: Annotated[str, typer.Option(help="low, normal, high or a number.")] = "normal",
    accelerator: Annotated[str | None, typer.Option(help="E.g. H100; default: any.")] = None,
    spot: Annotated[
        str | None, typer.Option(help="Machines that may be taken away: allow, avoid or only.")
    ] = None,
    image: Annotated[
        str | None, typer.Option(help="A container image for it; needs a pool of Kubernetes.")
    ] = None,
    env: Annotated[
        list[str] | None, typer.Option("-e", "--env", help="NAME=VALUE; repeatable.")
    ] = None,
    secret: Annotated[list[str] | None, typer.Option(help="A secret; repeatable.")] = None,
    max_duration: Annotated[
        str | None, typer.Option(help="End it after this time at work, e.g. 12h.")
    ] = None,
    max_restarts: Annotated[
        int | None, typer.Option(help="Restarts after failures of its own; default: 3.", min=0)
    ] = None,
    workdir: Annotated[
        str,
        typer.Option(
            help="The folder to upload and start in, without what its ignore files name; an "
            "absolute path or a URI is one of the machines."
        ),
    ] = ".",
    no_workdir: Annotated[
        bool, typer.Option("--no-workdir", help="Upload nothing; start in an empty folder.")
    ] = False,
    setup: Annotated[
        str | None,
        typer.Option(help="Make an environment first, e.g. 'pip install -r requirements.txt'."),
    ] = None,
    detach: Annotated[bool, typer.Option("-d", "--detach", help="Do not follow logs.")] = False,
    project: Project = None,
) -> None:
    """Run a program on ranks and follow its logs.

    Example: quarterdeck submit --ranks 8 -- python train.py
    """
    document: dict[str, Any] = {
        "kind": "command",
        "name": name or job_name(command, secrets.token_hex(2)),
        "ranks": ranks,
        "command": command[0] if len(command) == 1 else shlex.join(command),
        "queue": queue,
        "priority": int(priority) if re.fullmatch(r"-?\d+", priority) else priority,
    }
    variables = dict(_variable(text) for text in env or [])
    optional: dict[str, Any] = {
        "env": variables,
        "launch": launch,
        "secrets": secret,
        "max_duration": max_duration,
        "max_restarts": max_restarts,
        "resources": {
            field: value
            for field, value in (("accelerator", accelerator), ("spot", spot))
            if value is not None
        },
        "environment": {"image": image} if image else None,
        "workdir": None if no_workdir else workdir,
        "setup": setup,
    }
    document |= {field: value for field, value in optional.items() if value not in (None, [], {})}
    with connect(project) as client:
        job = client.submit(upload_workdir(client, document, Path()))
        print(f"job/{job.name} created")
        if detach:
            return
        from quarterdeck.cli.follow import end_with
        from quarterdeck.cli.logs import print_logs

        try:
            print_logs(client, f"job/{job.id}", epoch=1)
            ended = client.wait(job.id)
        except KeyboardInterrupt:
            note(f"\njob/{job.name} goes on; stop it with: quarterdeck cancel job/{job.name}")
            return
        end_with(ended)


def job_name(command: list[str], suffix: str) -> str:
    """A name from the program: `python train.py --x` is `train-SUFFIX`."""
    words = command[0].split() if len(command) == 1 else command
    program = next(
        (word for word in words if word.endswith((".py", ".sh"))), words[0] if words else "job"
    )
    stem = PurePath(program).name.rsplit(".", 1)[0].lower()
    clean = re.sub(r"[^a-z0-9]+", "-", stem).strip("-")[:50].strip("-")
    return f"{clean or 'job'}-{suffix}"


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        refuse(f"--env {text!r}: write NAME=VALUE", USAGE)
    return name, value
