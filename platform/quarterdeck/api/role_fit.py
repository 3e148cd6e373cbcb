"""Whether the roles of a gang can find the accelerators that they name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from quarterdeck.api.documents import Document, refuse
from quarterdeck.planner.hardware import builtin_catalogue
from quarterdeck.specs.kinds import AnyJob, CommandSpec, ServiceSpec
from quarterdeck.specs.resources import FieldProblem

Slots = Mapping[str, Mapping[str, int]]
"""Of living machines, by cluster and accelerator in lower case."""


def check_roles(documents: Iterable[Document], slots: Slots) -> None:
    """Refuse a role whose accelerator nobody knows: no living machine has it, and the hardware
    catalogue does not either. Raises ProblemError `invalid_document` naming every such role."""
    alive = {model for models in slots.values() for model in models}
    errors: list[FieldProblem] = []
    for document in documents:
        for role, _, accelerator in _named(document.parsed):
            if accelerator.lower() in alive:
                continue
            try:
                builtin_catalogue().find(accelerator)
            except ValueError as unknown:
                message = (
                    f"no living machine has it, and {unknown}. Correct it, start such a machine "
                    "first, or force it"
                )
                errors.append(document.problem(f"roles.{role}.resources.accelerator", message))
    if errors:
        raise refuse(errors)


def lacking_roles(document: AnyJob | ServiceSpec, slots: Slots) -> str:
    """What the cluster that has most of a gang lacks of its roles even when nothing runs there;
    empty where one has all, or no role names an accelerator."""
    wanted: dict[str, list[tuple[str, int, str]]] = {}
    for role, ranks, accelerator in _named(document):
        wanted.setdefault(accelerator.lower(), []).append((role, ranks, accelerator))
    mine = {
        name: models for name, models in slots.items() if document.cluster in (None, name)
    }  # fmt: skip
    if not wanted or not mine:
        return ""

    def missing(models: Mapping[str, int]) -> int:
        asked = {model: sum(ranks for _, ranks, _ in roles) for model, roles in wanted.items()}
        return sum(max(0, ranks - models.get(model, 0)) for model, ranks in asked.items())

    cluster = min(sorted(mine), key=lambda name: missing(mine[name]))
    words = []
    for model, roles in wanted.items():
        there = mine[cluster].get(model, 0)
        if sum(ranks for _, ranks, _ in roles) > there:
            first, *others = [f"{ranks} {name} for {role}" for role, ranks, name in roles]
            words.append(f"{' and '.join([first, *others])}, cluster {cluster} has {there} in all")
    return "; ".join(words)


def _named(document: AnyJob | ServiceSpec) -> Iterator[tuple[str, int, str]]:
    """The roles that have an accelerator, their own or the job's, with their ranks."""
    if not isinstance(document, CommandSpec):
        return
    for name, role in (document.roles or {}).items():
        own = role.resources.accelerator if role.resources else None
        if accelerator := own or document.resources.accelerator:
            yield name, role.ranks, accelerator
