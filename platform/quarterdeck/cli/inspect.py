"""`describe` and `why`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quarterdeck.cli.fleet import describe_cluster, describe_node
from quarterdeck.cli.follow import Subject, event_line, progress
from quarterdeck.cli.goodput import incidents_table
from quarterdeck.cli.names import job_or_service
from quarterdeck.cli.output import Column, age, duration, show_one, size, table, yaml_text
from quarterdeck.cli.services import model_of, ready_of
from quarterdeck.cli.session import Output, Project, connect
from quarterdeck.cli.workdirs import source_text

if TYPE_CHECKING:
    from quarterdeck.client import Client
    from quarterdeck.specs.protocol import RankPlacement
    from quarterdeck.specs.resources import Job, Replica, Run, Service, ServiceStep

LAST_EVENTS = 15
SHOWN_MEMBERS = 100


def why(subject: Subject, project: Project = None, output: Output = "table") -> None:
    """Say why a job or service is in the state it is in.

    Example: quarterdeck why job/llama-8b
    """
    kind, name = job_or_service(subject)
    with connect(project) as client:
        found = client.jobs.why(name) if kind == "job" else client.services.why(name)
    if output in ("json", "yaml"):
        show_one(found, output)
        return
    print(f"{found.subject} is {found.phase}: {found.reason}")
    if found.message:
        print(found.message)
    for fact in found.facts:
        print(f"  {fact}")


def describe(subject: Subject, project: Project = None, output: Output = "table") -> None:
    """Show all there is to know of a job, a service, a node or a cluster.

    Spec, attempts, checkpoints, results, the failure, and the last events.

    Example: quarterdeck describe job/llama-8b
    """
    if subject.startswith(("node/", "nodes/")):
        with connect(project) as client:
            describe_node(client, subject.partition("/")[2], output)
        return
    if subject.startswith(("cluster/", "clusters/")):
        with connect(project) as client:
            describe_cluster(client, subject.partition("/")[2], output)
        return
    kind, name = job_or_service(subject)
    with connect(project) as client:
        if kind == "job":
            job = client.jobs.get(name)
            show_one(job, output) if output in ("json", "yaml") else _job(client, job)
        else:
            service = client.services.get(name)
            show_one(service, output) if output in ("json", "yaml") else _service(client, service)


def _job(client: Client, job: Job) -> None:
    print(f"job/{job.name}  {job.id}  project {job.project}  queue {job.queue}")
    print(progress(job))
    moments = (("created", job.created_at), ("started", job.started_at), ("ended", job.ended_at))
    print("  ".join(f"{name} {moment:%Y-%m-%d %H:%M:%S}Z" for name, moment in moments if moment))
    _section("spec", yaml_text(job.spec))
    if source := source_text(client, job.project, job.spec.get("workdir")):
        _section("source", source)
    runs: list[Column[Run]] = [
        Column("ATTEMPT", lambda run: run.attempt),
        Column("RUN", lambda run: run.id),
        Column("PHASE", lambda run: run.phase),
        Column("REASON", lambda run: run.reason),
        Column("CLUSTER", lambda run: run.cluster),
        Column("ACCELERATOR", accelerators),
        Column("RESUMED-FROM", lambda run: run.resumed_from_step),
        Column("STEP", lambda run: run.step),
        Column("GOODPUT", _goodput),
        Column("AGE", lambda run: age(run.created_at)),
        Column("MESSAGE", why_ended),
    ]
    if job.array_size is not None:
        _section("members", _members(client, job))
    if found := client.jobs.runs(job.id):
        _section("attempts", table(found, runs))
        if job.spec.get("roles"):
            newest = max(found, key=lambda run: run.epoch)
            _section(f"roles of attempt {newest.attempt}", roles_text(newest))
    if costs := client.jobs.goodput(job.id).incidents:
        _section("incidents, in rank time", incidents_table(costs))
    if kept := client.jobs.checkpoints(job.id):
        lines = [f"step {one.step}  {size(one.size)}  {one.state}" for one in kept]
        _section("checkpoints", "\n".join(lines))
    if job.outputs:
        _section("outputs", "\n".join(job.outputs))
    if job.results:
        _section("results", yaml_text(job.results))
    if job.failure is not None:
        text = f"rank {job.failure.rank}, blame {job.failure.blame}: {job.failure.message}\n"
        _section("failure", text + job.failure.traceback)
    last = list(client.jobs.events(job.id))[-LAST_EVENTS:]
    _section("last events", "\n".join(event_line(event) for event in last))


def _members(client: Client, job: Job) -> str:
    """How many are in each phase, and the first of them by name."""
    counts = ", ".join(f"{count} {phase}" for phase, count in sorted(job.members.items()))
    columns: list[Column[Job]] = [
        Column("MEMBER", lambda member: f"job/{member.name}"),
        Column("PHASE", lambda member: member.phase),
        Column("REASON", lambda member: member.reason),
        Column("ATTEMPTS", lambda member: member.attempts),
    ]
    found = sorted(client.jobs.list(array=job.id), key=lambda member: member.array_index or 0)
    more = len(found) - SHOWN_MEMBERS
    rest = f"\n… and {more} more: quarterdeck jobs --array {job.name}" if more > 0 else ""
    return f"{counts} of {job.array_size}\n{table(found[:SHOWN_MEMBERS], columns)}{rest}"


def _service(client: Client, service: Service) -> None:
    print(f"service/{service.name}  {service.id}  project {service.project}")
    print(f"{service.phase}: {service.reason} {service.message}".rstrip())
    noun = "chain" if service.steps else "model"
    print(f"{noun} {model_of(service)}  revision {service.revision}  ready {ready_of(service)}")
    _section("spec", yaml_text(service.spec))
    replicas: list[Column[Replica]] = [
        Column("RUN", lambda replica: replica.run_id),
        Column("REVISION", lambda replica: replica.revision),
        Column("PHASE", lambda replica: replica.phase),
        Column("REASON", lambda replica: replica.reason),
        Column("URL", lambda replica: replica.url),
        Column("AGE", lambda replica: age(replica.created_at)),
    ]
    steps: list[Column[ServiceStep]] = [
        Column("STEP", lambda step: step.role),
        Column("SERVICE", lambda step: step.service),
        Column("READY", lambda step: "yes" if step.ready else "no"),
        Column("MESSAGE", lambda step: step.message),
    ]
    if service.steps:
        _section("steps", table(service.steps, steps))
    if service.replicas:
        _section("replicas", table(service.replicas, replicas))
    last = list(client.services.events(service.id))[-LAST_EVENTS:]
    _section("last events", "\n".join(event_line(event) for event in last))


def roles_text(run: Run) -> str:
    """A line for each role of a gang: its ranks and what they hold."""
    roles: dict[str, list[RankPlacement]] = {}
    for place in sorted(run.placements, key=lambda place: place.rank):
        roles.setdefault(place.role, []).append(place)
    lines = []
    for name, places in roles.items():
        first, last = places[0].rank, places[-1].rank
        ranks = f"rank {first}" if first == last else f"ranks {first} to {last}"
        slots = sum(place.slots for place in places)
        machines = len({place.node_id for place in places})
        where = "1 machine" if machines == 1 else f"{machines} machines"
        lines.append(f"{name}  {ranks}  {slots} × {places[0].accelerator or 'slot'} on {where}")
    return "\n".join(lines)


def accelerators(run: Run) -> str:
    """The models that its ranks got, each once."""
    return ", ".join(dict.fromkeys(place.accelerator for place in run.placements))


def why_ended(run: Run) -> str:
    """Of an attempt that did not end well: whom its first failure blames, and what it says."""
    failed = run.failure
    if failed is None:
        return run.message if run.phase in ("lost", "preempted", "cancelled") else ""
    lines = failed.message.strip().splitlines()
    return f"{failed.blame}: {lines[0] if lines else 'no message'}"


def _goodput(run: Run) -> str:
    if not run.held_seconds:
        return "-"
    share = run.productive_seconds / run.held_seconds
    return f"{share:.0%} of {duration(run.held_seconds)} rank time"


def _section(title: str, text: str) -> None:
    print(f"\n{title}")
    for line in text.rstrip().splitlines():
        print(f"  {line}")
