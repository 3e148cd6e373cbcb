"""Durations as options give them."""

from __future__ import annotations

from quarterdeck.cli.session import USAGE, refuse


def seconds_of(text: str | None, option: str = "--timeout") -> float | None:
    """Seconds of `90`, `90s` or `10m`; None for none. Ends the command otherwise."""
    from quarterdeck.specs.units import parse_duration

    if text is None:
        return None
    try:
        return parse_duration(float(text) if text.replace(".", "", 1).isdigit() else text)
    except ValueError as error:
        refuse(f"{option}: {error}", USAGE)
