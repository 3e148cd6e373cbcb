"""Whether a replica fits into the share of an accelerator's memory that its service declares."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil

from quarterdeck.api.documents import Document
from quarterdeck.api.fitting import Fleet, Hardware, choose_hardware
from quarterdeck.api.problems import ProblemError
from quarterdeck.planner.estimate import USABLE_MEMORY
from quarterdeck.planner.inference import cache_tokens_of_share
from quarterdeck.planner.memory import kv_cache_bytes_per_token
from quarterdeck.specs.accelerator_share import WHOLE
from quarterdeck.specs.architecture import Architecture
from quarterdeck.specs.kinds import ServiceSpec
from quarterdeck.specs.references import parse_reference
from quarterdeck.specs.resources import FieldProblem
from quarterdeck.store.asset_queries import find_version
from quarterdeck.store.sessions import Session
from quarterdeck.store.tables import AssetVersionRow


def check_shares(session: Session, documents: Iterable[Document], fleet: Fleet) -> None:
    """Refuse a share that holds the model's weights and the cache of one sequence on none of the
    accelerators that it could get. What is not known yet (a model that a job will make, an engine
    of the user's own, other hardware) is not judged.

    Raises ProblemError `does_not_fit`.
    """
    for document in documents:
        spec = document.parsed
        if not isinstance(spec, ServiceSpec) or spec.resources.accelerator_share is None:
            continue
        if spec.model is None or spec.engine == "command":
            continue
        reference = parse_reference(spec.model)
        if reference.name is None:
            continue
        model = find_version(session, "model", reference.name, spec.project, reference.version)
        if model is not None and (why := _shortage(spec, model, fleet)):
            raise _refused(document, why)


def _shortage(spec: ServiceSpec, model: AssetVersionRow, fleet: Fleet) -> str:
    """Why the replica fits nowhere; empty where it does, or nobody knows."""
    share = spec.resources.accelerator_share or 1.0
    try:
        architecture = Architecture.model_validate(model.details.get("architecture"))
        hardware = choose_hardware(spec, fleet)
        longest = int(
            spec.engine_args.get("max_model_len")
            or model.details.get("sequence_length")
            or architecture.max_position_embeddings
        )
    except ValueError:  # pydantic's too
        return ""
    per_token = kv_cache_bytes_per_token(architecture)
    best = max(hardware, key=_memory, default=None)
    if best is None:
        return ""
    tokens = cache_tokens_of_share(share, _memory(best), model.size, per_token)
    if tokens >= longest:
        return ""
    least = ceil(WHOLE * (model.size + longest * per_token) / (USABLE_MEMORY * _memory(best)))
    remedy = (
        f"take at least {least / 10:g}%"
        if least <= WHOLE
        else "lower engine_args.max_model_len, quantise the weights, or take a larger one"
    )
    return (
        f"{share:g} of {best.accelerator.name} with {_memory(best) / 1e9:.1f} GB has to hold "
        f"{model.size / 1e9:.1f} GB of weights and {longest * per_token / 1e9:.2f} GB for the "
        f"cache of one sequence of {longest} tokens: {remedy}"
    )


def _memory(hardware: Hardware) -> int:
    return hardware.accelerator.memory


def _refused(document: Document, why: str) -> ProblemError:
    problem = document.problem("resources.accelerator_share", why)
    return ProblemError(
        "does_not_fit",
        f"{document.parsed.name}: {why}. Force submits it all the same",
        errors=[FieldProblem(path=problem.path, message=why)],
    )
