"""Whether a training can fit at all, judged by the planner before it is submitted."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quarterdeck.api.documents import Document, refuse
from quarterdeck.api.problems import ProblemError
from quarterdeck.api.role_fit import lacking_roles
from quarterdeck.planner.elastic import smaller_layouts
from quarterdeck.planner.hardware import CPU, Accelerator, builtin_catalogue, cpu_slot
from quarterdeck.planner.plan import Plan, describe, plan_pretrain, workload_of
from quarterdeck.specs.kinds import PretrainSpec, ServiceSpec, TokenizerSpec
from quarterdeck.specs.resources import FieldProblem
from quarterdeck.specs.training import Parallelism
from quarterdeck.store import fleet_queries
from quarterdeck.store.fleet_queries import Machines
from quarterdeck.store.pools import fresh_pools
from quarterdeck.store.sessions import Session
from quarterdeck.store.tables import PoolRow
from quarterdeck.store.tenants import read_tenancy

ARCHITECTURAL = ("heads", "width", "layers", "zero", "batch", "ramp", "positions", "sequence")
"""Rules that no hardware can mend."""
_FIELD_OF_RULE = {
    "heads": "parallelism.tensor",
    "width": "parallelism.tensor",
    "host": "parallelism.tensor",
    "layers": "parallelism.pipeline",
    "zero": "parallelism.zero",
    "sequence": "parallelism.sequence",
    "batch": "training.global_batch_size",
    "ramp": "training.batch_ramp",
    "positions": "training.sequence_length",
}


@dataclass(frozen=True)
class Hardware:
    """A kind of machine that a rank may get."""

    accelerator: Accelerator
    per_host: int


@dataclass(frozen=True)
class Fleet:
    """The living machines and those that pools may bring: one entry for each cluster and kind,
    and the slots of each cluster at its largest by accelerator, in lower case."""

    hardware: Mapping[str, Sequence[Hardware]]
    slots: Mapping[str, Mapping[str, int]]


def read_fleet(session: Session, project: str) -> Fleet:
    """What is alive now, and what pools could bring, of clusters that take a project's runs."""
    hardware: dict[str, list[Hardware]] = {}
    slots: dict[str, dict[str, int]] = {}
    tenancy, pools = read_tenancy(session), fresh_pools(session)
    taken = {pool.name for pool in pools if pool.of_pool is not None}  # made for one run each
    for node in fleet_queries.living_machines(session):
        if node.cluster in taken or tenancy.why_closed(node.cluster, project):
            continue
        models, model = slots.setdefault(node.cluster, {}), node.accelerator.lower()
        models[model] = models.get(model, 0) + node.slots * node.count
        entry = _hardware(node)
        known = hardware.setdefault(node.cluster, [])
        if entry is not None and entry not in known:
            known.append(entry)
    for pool in pools:
        if pool.name in taken or tenancy.why_closed(pool.name, project):
            continue
        most: dict[str, int] = {}
        known = hardware.setdefault(pool.name, [])
        for machines in _of_pool(pool):
            model = machines.accelerator.lower()
            most[model] = most.get(model, 0) + machines.slots * machines.count
            entry = _hardware(machines)
            if entry is not None and entry not in known:
                known.append(entry)
        there = slots.setdefault(pool.name, {})
        there |= {model: max(count, there.get(model, 0)) for model, count in most.items()}
    return Fleet(hardware, slots)


def _of_pool(pool: PoolRow) -> list[Machines]:
    """The machines of each group that may have some. Without `cpus` and `memory` in the file it
    is what one last reported; before the first nobody can judge those without accelerators."""
    return [
        Machines(
            pool.name,
            group["accelerator"],
            group["slots"],
            float(group["cpus"] or seen.get("cpus") or 0),
            int(group["memory"] or seen.get("memory") or 0),
            group["max_replicas"],
        )
        for group in pool.groups
        if group["max_replicas"]
        for seen in (pool.sizes.get(group["name"]) or {},)
    ]


def _hardware(node: Machines) -> Hardware | None:
    if node.slots <= 0:
        return None
    if node.accelerator == CPU:
        if node.memory <= 0 or node.cpus <= 0:
            return None
        return Hardware(cpu_slot(node.memory, node.cpus, node.slots), node.slots)
    try:
        return Hardware(builtin_catalogue().find(node.accelerator), node.slots)
    except ValueError:
        return None  # an accelerator that the catalogue does not know cannot be judged


@dataclass(frozen=True)
class Judgement:
    """What the planner makes of a job: its gang, the layout for `parallelism: auto`, and a note
    for people, often empty."""

    ranks: int | None
    layout: dict[str, Any] | None = None
    note: str = ""
    smaller_layouts: list[Any] | None = None
    """Of an elastic training: what it may restart on, the one to prefer first."""


def choose_hardware(spec: PretrainSpec | ServiceSpec, fleet: Fleet) -> list[Hardware]:
    """The machines that the job or service could get; empty when none is known.

    Raises ValueError when the accelerator is not in the catalogue.
    """
    name = spec.resources.accelerator
    wanted = builtin_catalogue().find(name) if name is not None else None
    alive = [
        entry
        for cluster, entries in fleet.hardware.items()
        if spec.cluster in (None, cluster)
        for entry in entries
        if wanted is None or entry.accelerator.name == wanted.name
    ]
    if alive or wanted is None:
        return alive
    return [Hardware(wanted, wanted.per_host)]


def plan_on(spec: PretrainSpec, hardware: Hardware, vocab_size: int | None) -> Plan:
    """The planner's answer for this job on these machines. Raises ValueError."""
    return plan_pretrain(
        spec.architecture,
        spec.training,
        accelerator=hardware.accelerator,
        parallelism=spec.parallelism,
        ranks=spec.ranks,
        ranks_per_host=hardware.per_host,
        precision=spec.precision,
        vocab_size=vocab_size,
        sync=spec.sync,
    )


def best_plan(spec: PretrainSpec, fleet: Fleet, vocab_size: int | None) -> Plan | None:
    """The plan on the first machines where the job fits, else the last refusal; None when no
    machine is known. Raises ValueError."""
    plan: Plan | None = None
    for hardware in choose_hardware(spec, fleet):
        plan = plan_on(spec, hardware, vocab_size)
        if plan.fits:
            return plan
    return plan


_NOT_PLANNED = frozenset(
    {"learning_rate", "min_learning_rate_share", "lr_schedule", "warmup_steps", "weight_decay",
     "betas", "eps", "clip", "seed"}
)  # fmt: skip
"""Fields of `training` that no plan depends on."""
MOST_LAYOUTS = 64


def judge_members(
    document: Document, fleet: Fleet, vocab_size: int | None, *, force: bool
) -> list[Judgement]:
    """Judge each member of an array; those that differ only in what no plan reads, once.

    Raises ProblemError like `judge`, and where too many members want a plan of their own.
    """
    known: dict[str, Judgement] = {}
    answers = []
    for member in document.members:
        planned = {**member.spec, "name": "", "env": {}, "labels": {}}
        if isinstance(member.parsed, PretrainSpec):
            training = dict(planned["training"])
            planned["training"] = {k: v for k, v in training.items() if k not in _NOT_PLANNED}
        key = json.dumps(planned, sort_keys=True)
        if key not in known:
            if len(known) >= MOST_LAYOUTS and isinstance(member.parsed, PretrainSpec):
                message = (
                    f"its members want more than {MOST_LAYOUTS} layouts to be planned: vary "
                    "sizes in several arrays"
                )
                raise refuse([document.problem("array", message)])
            known[key] = judge(member, fleet, vocab_size, force=force)
        answers.append(known[key])
    return answers


def judge(document: Document, fleet: Fleet, vocab_size: int | None, *, force: bool) -> Judgement:
    """Refuse a training that cannot be: a layout against the architecture always, too little
    memory unless `force`. `parallelism: auto` becomes the planner's layout.

    Raises ProblemError `invalid_document` or `does_not_fit`.
    """
    spec = document.parsed
    if not isinstance(spec, PretrainSpec):
        return Judgement(spec.rank_count, note=_capacity_note(document, spec.rank_count, fleet))
    try:
        plan = best_plan(spec, fleet, vocab_size)
        judged = plan or plan_on(spec, _any_hardware(), vocab_size)
    except ValueError as error:
        raise refuse([document.problem(_field_of(str(error)), str(error))]) from error
    rule = _broken(spec, judged)
    if rule is not None and rule[0] in ARCHITECTURAL:
        raise refuse([document.problem(_FIELD_OF_RULE[rule[0]], rule[1])])
    if plan is not None and not plan.fits and not force:
        raise _does_not_fit(document, plan)
    layout = None
    if spec.parallelism == "auto":
        layout = _layout(document, judged)
    full = layout or spec.parallelism
    assert isinstance(full, Parallelism)
    ranks = full.ranks
    return Judgement(
        ranks,
        layout.model_dump(mode="json") if layout else None,
        _capacity_note(document, ranks, fleet),
        _smaller(document, full, judged, check_memory=plan is not None and not force),
    )


def _smaller(
    document: Document, full: Parallelism, plan: Plan, *, check_memory: bool
) -> list[Any] | None:
    spec = document.parsed
    if not isinstance(spec, PretrainSpec) or spec.elastic is None:
        return None
    least = spec.elastic.min_ranks
    if least > full.ranks:
        message = f"{least} is more than the {full.ranks} ranks that the planner chose"
        raise refuse([document.problem("elastic.min_ranks", message)])
    found = smaller_layouts(workload_of(spec, plan), full, least, check_memory=check_memory)
    if not found and least < full.ranks:
        message = (
            f"no layout of {least} to {full.ranks - 1} ranks is possible: degrees only shrink from "
            f"{describe(full)}, data must divide the global batch, and each rank must fit into "
            "memory; lower min_ranks, or choose another global batch"
        )
        raise refuse([document.problem("elastic.min_ranks", message)])
    return [layout.model_dump(mode="json") for layout in found]


def _field_of(message: str) -> str:
    """The field that a refusal of the planner is about."""
    if "catalogue" in message:
        return "resources.accelerator"
    return "training.batch_ramp" if message.startswith("batch_ramp") else "parallelism"


def _layout(document: Document, plan: Plan) -> Parallelism:
    if plan.layout is not None:
        return plan.layout.parallelism
    possible = [found.parallelism for found in plan.rejected if found.rule == "memory"]
    if not possible:
        message = f"auto finds no layout: {plan.message}. Give the degrees to force one"
        raise refuse([document.problem("parallelism", message)])
    return possible[0]


def _broken(spec: PretrainSpec, plan: Plan) -> tuple[str, str] | None:
    """The rule, memory apart, for which there is no layout."""
    if plan.layout is not None or not plan.rejected:
        return None
    if isinstance(spec.parallelism, Parallelism):
        return plan.rejected[0].rule, plan.rejected[0].reason
    rules = {rejected.rule for rejected in plan.rejected}
    if rules <= set(ARCHITECTURAL):
        return plan.rejected[0].rule, plan.message
    return None


def _does_not_fit(document: Document, plan: Plan) -> ProblemError:
    remedies = "; ".join(remedy.change for remedy in plan.remedies if remedy.fits)
    advice = f". Remedies: {remedies}" if remedies else ""
    return ProblemError(
        "does_not_fit",
        f"{document.parsed.name}: {plan.message}{advice}. Force submits it all the same",
        errors=[FieldProblem(path=document.problem("parallelism", "").path, message=plan.message)],
    )


def _any_hardware() -> Hardware:
    """Machines without limits of their own, where none is known: only the architecture counts."""
    largest = builtin_catalogue().find("H200")
    return Hardware(largest, 1_000_000)


def _capacity_note(document: Document, ranks: int | None, fleet: Fleet) -> str:
    cluster = document.parsed.cluster
    sizes = [sum(slots.values()) for name, slots in fleet.slots.items() if cluster in (None, name)]
    if not document.is_job or ranks is None:
        return ""
    if not sizes:
        where = f"cluster {cluster!r}" if cluster else "a cluster"
        return f"waits for {where} to connect"
    if lacking := lacking_roles(document.parsed, fleet.slots):
        return f"waits: needs {lacking}"
    if ranks > max(sizes):
        return f"waits: needs {ranks} slots, the largest cluster has {max(sizes)}"
    return ""


def vocabulary_of(document: Document, others: Iterable[Document]) -> int | None:
    """The vocabulary of the tokenizer that the same request trains for this document."""
    wanted = {
        need.reference.job or need.reference.name
        for need in document.needs
        if need.assets == ("tokenizer",)
    }
    for other in others:
        if isinstance(other.parsed, TokenizerSpec) and other.parsed.name in wanted:
            return other.parsed.vocabulary
    return None
