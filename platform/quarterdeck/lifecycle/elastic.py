"""Whether a run on fewer ranks than its job's full gang gives them back for the full gang. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RegrowFacts:
    """A run that works on `ranks` of `full` ranks. Durations are seconds of wall time."""

    ranks: int
    full: int
    free: int
    """Slots that it could have: its own and those that nobody holds."""
    fits_for: float | None
    """How long the full gang has fitted without a break; None: it does not."""
    since_regrow: float | None
    """Since the job was last ordered to regrow; None: never."""
    eta: float | None
    """To the end on the present ranks; None before the first step."""
    restart: float
    """What starting the present attempt took, until its first step."""
    regrow_after: float = 30.0
    regrow_every: float = 600.0


@dataclass(frozen=True)
class RegrowDecision:
    """`order` a checkpoint and a stop now; `message` says why, or what it waits for."""

    order: bool
    message: str


def decide_regrow(facts: RegrowFacts) -> RegrowDecision:
    """Regrow when the full gang has fitted for `regrow_after`, at most once per `regrow_every`,
    and only if the time that more ranks save (the rest of the work shortens to ranks ÷ full of
    itself) is more than another restart takes."""
    now = f"running on {facts.ranks} of {facts.full} ranks"
    if facts.fits_for is None:
        return RegrowDecision(
            False,
            f"{now}: regrows when {facts.full} slots have been free for it for "
            f"{facts.regrow_after:g} s ({min(facts.free, facts.full)} are, its own among them)",
        )
    if facts.since_regrow is not None and facts.since_regrow < facts.regrow_every:
        return RegrowDecision(
            False,
            f"{now}: all {facts.full} fit, but it regrew less than {facts.regrow_every:g} s ago",
        )
    if facts.eta is None:
        return RegrowDecision(False, f"{now}: all {facts.full} fit; regrows after its first steps")
    gain = facts.eta * (1 - facts.ranks / facts.full)
    if gain <= facts.restart:
        return RegrowDecision(
            False,
            f"{now}: all {facts.full} fit, but would save only {gain:.0f} s, less than a restart "
            f"({facts.restart:.0f} s)",
        )
    if facts.fits_for < facts.regrow_after:
        return RegrowDecision(
            False,
            f"{now}: all {facts.full} fit; regrows once they have for {facts.regrow_after:g} s",
        )
    return RegrowDecision(
        True, f"all {facts.full} ranks fit again; saves about {gain:.0f} s of {facts.eta:.0f} s"
    )
