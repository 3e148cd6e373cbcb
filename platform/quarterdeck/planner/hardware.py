"""The hardware catalogue: what an accelerator holds, how fast it is, what an hour of it costs.

Data beside this file (`hardware.yaml`); a second file of the same shape adds to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from importlib.resources import files

from pydantic import Field
from ruamel.yaml import YAML

from quarterdeck.specs.base import Spec
from quarterdeck.specs.units import Bytes

CPU = "cpu"


class Accelerator(Spec):
    """One accelerator, or one declared slot of a CPU host.

    Memory in bytes; peaks in dense FLOP/s by data type; bandwidth and links in bytes per second
    (links per direction); price in US dollars per hour.
    """

    name: str
    aliases: tuple[str, ...] = ()
    memory: Bytes = Field(gt=0)
    peak: dict[str, float]
    bandwidth: float = Field(gt=0)
    intra_host: float = Field(gt=0)
    inter_host: float = Field(gt=0)
    per_host: int = Field(gt=0)
    price_per_hour: float = Field(ge=0)

    def peak_of(self, precision: str) -> float:
        """Dense FLOP/s in `precision`. Raises ValueError when the hardware has none."""
        if precision not in self.peak:
            raise ValueError(
                f"{self.name} has no peak for precision {precision}: use {' or '.join(self.peak)}"
            )
        return self.peak[precision]


def _key(name: str) -> str:
    """Drivers write `NVIDIA H100 80GB HBM3`, node labels `NVIDIA-H100-80GB-HBM3`."""
    return name.strip().lower().replace(" ", "-").replace("_", "-")


class Catalogue:
    """Accelerators by name and alias, whatever their case, with dashes, spaces or underscores."""

    def __init__(self, entries: Mapping[str, Accelerator]) -> None:
        self._entries = dict(entries)
        self._by_key = {
            _key(key): entry for entry in entries.values() for key in (*entry.aliases, entry.name)
        }

    def names(self) -> tuple[str, ...]:
        """Every entry's own name, in the files' order."""
        return tuple(self._entries)

    def find(self, name: str) -> Accelerator:
        """The entry called `name`. Raises ValueError with the nearest names."""
        if found := self._by_key.get(_key(name)):
            return found
        near = get_close_matches(_key(name), self._by_key, n=3, cutoff=0.5)
        remedy = (
            f"did you mean {' or '.join(dict.fromkeys(self._by_key[key].name for key in near))}?"
            if near
            else f"known: {', '.join(self._entries)}"
        )
        raise ValueError(f"accelerator {name!r} is not in the hardware catalogue: {remedy}")


@cache
def builtin_catalogue() -> Catalogue:
    """The catalogue that comes with the platform."""
    return parse_catalogue()


def parse_catalogue(extra: str = "") -> Catalogue:
    """The built-in entries with those of `extra` (YAML text of the same shape) laid over them.

    Fields that `extra` gives for a known name replace that entry's; a new name needs all fields.
    Raises ValueError (pydantic's ValidationError) naming the field that is wrong or missing.
    """
    text = files("quarterdeck.planner").joinpath("hardware.yaml").read_text(encoding="utf-8")
    merged: dict[str, dict[str, object]] = {}
    for source in (text, extra):
        for name, fields in (YAML(typ="safe", pure=True).load(source) or {}).items():
            merged[name] = {**merged.get(name, {}), **fields, "name": name}
    return Catalogue({name: Accelerator.model_validate(e) for name, e in merged.items()})


def cpu_slot(
    host_memory: int, cores: float, slots: int, *, catalogue: Catalogue | None = None
) -> Accelerator:
    """One of `slots` declared slots of a CPU host: its share of memory (bytes) and cores.

    Raises ValueError unless all are positive.
    """
    if host_memory <= 0 or cores <= 0 or slots <= 0:
        raise ValueError(
            f"host_memory {host_memory}, cores {cores} and slots {slots} must be positive"
        )
    core = (catalogue or builtin_catalogue()).find(CPU)
    share = cores / slots
    return core.model_copy(
        update={
            "memory": host_memory // slots,
            "peak": {name: value * share for name, value in core.peak.items()},
            "bandwidth": core.bandwidth * share,
            "intra_host": core.intra_host * min(1.0, share),
            "per_host": slots,
            "price_per_hour": core.price_per_hour * share,
        }
    )
