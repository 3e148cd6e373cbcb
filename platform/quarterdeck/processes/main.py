"""`quarterdeck` and `qd`: the one command of the distribution."""

from __future__ import annotations

import sys

from quarterdeck.cli import app as cli
from quarterdeck.processes import commands
from quarterdeck.processes.doctor import look_at_pools


def run() -> None:
    """Run the command line. Heavy imports wait until a command needs them."""
    app = cli.make_app([look_at_pools])
    commands.mount(app)
    sys.exit(cli.run(app))


if __name__ == "__main__":
    run()
