"""What `doctor` looks at beside the api: the pools that this machine's environment names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quarterdeck.specs.reports import DoctorCheck

VARIABLE = "QUARTERDECK_POOLS"


def look_at_pools() -> list[DoctorCheck]:
    """The file of pools and what Kubernetes lacks for them; nothing where no file is named."""
    named = os.environ.get(VARIABLE)
    if not named:
        return []
    from quarterdeck.specs.loading import LoadError
    from quarterdeck.specs.pools import read_pools
    from quarterdeck.specs.reports import DoctorCheck, DoctorFinding

    claim = f"{VARIABLE} {named} lists pools"
    try:
        pools = read_pools(Path(named))
    except LoadError as error:
        found = [
            DoctorFinding(id=f"{one.source}:{one.line}" if one.line else one.source,
                          message=f"{one.path}: {one.message}" if one.path else one.message)
            for one in error.problems
        ]  # fmt: skip
        remedy = "mend the file: the controller does not start with it"
        return [DoctorCheck(name="pools", claim=claim, state="failed", remedy=remedy, found=found)]
    checks = [DoctorCheck(name="pools", claim=claim, state="ok")]
    if not pools:
        return checks
    from quarterdeck.cluster.inspection import inspect
    from quarterdeck.cluster.kubernetes_client import connect
    from quarterdeck.cluster.provider import ProviderError

    try:
        kubernetes = connect()
    except ProviderError as error:
        return [*checks, DoctorCheck(name="kubernetes", claim=str(error), state="failed")]
    try:
        return [*checks, *inspect(kubernetes, pools)]
    finally:
        kubernetes.close()
