"""Tables, JSON, YAML and names on stdout; ages and amounts for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from pydantic import BaseModel

Item = TypeVar("Item", bound="BaseModel")
MINUTE, HOUR, DAY = 60, 3600, 86400
BINARY = 1024


@dataclass(frozen=True)
class Column(Generic[Item]):
    """A column of a table; `wide` ones are shown with `-o wide` only."""

    title: str
    value: Callable[[Item], object]
    wide: bool = False


def show(
    items: Sequence[Item],
    columns: Sequence[Column[Item]],
    output: str,
    name: Callable[[Item], str],
    empty: str = "",
) -> None:
    """Print a list in the format that was asked for; `empty` goes to stderr for no items."""
    if output == "json":
        print(json.dumps([item.model_dump(mode="json") for item in items], indent=2))
    elif output == "yaml":
        dump_yaml([item.model_dump(mode="json") for item in items])
    elif output == "name":
        for item in items:
            print(name(item))
    elif not items:
        print(empty, file=sys.stderr)
    else:
        print(table(items, columns, wide=output == "wide"))


def show_one(item: BaseModel, output: str) -> None:
    """Print one resource as JSON or YAML."""
    data = item.model_dump(mode="json")
    if output == "json":
        print(json.dumps(data, indent=2))
    else:
        dump_yaml(data)


def table(items: Iterable[Item], columns: Sequence[Column[Item]], *, wide: bool = False) -> str:
    """Aligned columns with two spaces between; no line ends in spaces."""
    chosen = [column for column in columns if wide or not column.wide]
    rows = [[column.title for column in chosen]]
    rows += [[_cell(column.value(item)) for column in chosen] for item in items]
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of equally many cells in columns with two spaces between, the titles first."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def dump_yaml(data: Any) -> None:
    """Print plain values as YAML 1.2 that reads back the same."""
    sys.stdout.write(yaml_text(data))


def yaml_text(data: Any) -> str:
    """Plain values as YAML 1.2."""
    from io import StringIO

    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 100
    stream = StringIO()
    yaml.dump(data, stream)
    return stream.getvalue()


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    return " ".join(str(value).split())


def age(moment: datetime | None, now: datetime | None = None) -> str:
    """`42s`, `5m`, `3h`, `9d` since a moment."""
    if moment is None:
        return "-"
    return duration(((now or datetime.now(UTC)) - moment).total_seconds())


def duration(seconds: float | None) -> str:
    """Seconds in the largest unit that leaves at least two of it, e.g. 119 is `119s`."""
    if seconds is None:
        return "-"
    whole = max(0, round(seconds))
    for unit, letter in ((DAY, "d"), (HOUR, "h"), (MINUTE, "m")):
        if whole >= 2 * unit:
            return f"{whole // unit}{letter}"
    return f"{whole}s"


def size(count: int) -> str:
    """Bytes as `1.2 GiB`."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < BINARY:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= BINARY
    return f"{amount:.1f} TiB"


def amount(number: float | None) -> str:
    """A number as `41k`, `1.2M`."""
    if number is None:
        return "-"
    for unit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= unit:
            return f"{number / unit:.3g}{letter}"
    return f"{number:.3g}"


def clock(moment: datetime) -> str:
    """The local time of day."""
    return moment.astimezone().strftime("%H:%M:%S")


def step(current: int | None, total: int | None) -> str:
    """`812/2000`, `812`, or `-`."""
    if current is None:
        return "-"
    return f"{current}/{total}" if total else str(current)
