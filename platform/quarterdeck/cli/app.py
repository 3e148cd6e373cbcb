"""The commands of the platform's users, and the boundary at which errors become exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

import typer

from quarterdeck.cli import (
    access,
    datasets,
    doctor,
    documents,
    fleet,
    follow,
    goodput,
    inspect,
    jobs,
    log_policies,
    logs,
    models,
    plan,
    projects,
    rollouts,
    services,
    tunnels,
)
from quarterdeck.cli.session import EXPIRED, REFUSED, USAGE, explain, note

INTERRUPTED = 130
WORK, LOOK, OPERATE = "Work", "Look", "Operate"


def _version(wanted: bool) -> None:
    if wanted:
        import quarterdeck

        print(f"quarterdeck {quarterdeck.__version__}")
        raise typer.Exit


def make_app(looks: Sequence[doctor.Look] = ()) -> typer.Typer:
    """Every command that speaks to the platform through its REST API; `looks` are doctor's."""
    app = typer.Typer(
        name="quarterdeck",
        help="Pretrain, fine-tune and serve language models on shared accelerators.",
        epilog="Exit codes: 0 ok, 1 refused or differs, 2 usage (of diff: any error), "
        "3 job failed, 4 cancelled, 5 wait expired.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        rich_markup_mode=None,
    )

    @app.callback()
    def options(
        version: bool = typer.Option(
            False, "--version", callback=_version, is_eager=True, help="Print the version."
        ),
    ) -> None:
        """Pretrain, fine-tune and serve language models on shared accelerators."""

    commands: dict[str, tuple[Callable[..., None], ...]] = {
        WORK: (
            documents.apply, documents.diff, plan.plan, jobs.submit, jobs.cancel, jobs.retry,
            jobs.suspend, jobs.resume, services.scale, rollouts.rollout,
            services.delete,
        ),
        LOOK: (
            jobs.jobs, services.services, inspect.describe, inspect.why, logs.logs, follow.watch,
            follow.wait, follow.events, jobs.checkpoints, models.tokenizers, fleet.clusters,
            goodput.goodput,
        ),
        OPERATE: (access.login, doctor.command(looks)),
    }  # fmt: skip
    for panel, functions in commands.items():
        for function in functions:
            app.command(rich_help_panel=panel)(function)
    app.command("exec", rich_help_panel=LOOK)(tunnels.exec_)
    app.command("attach", rich_help_panel=LOOK)(tunnels.attach)
    app.command("port-forward", rich_help_panel=LOOK)(tunnels.port_forward)
    app.add_typer(models.models, name="models", rich_help_panel=LOOK)
    app.add_typer(datasets.datasets, name="datasets", rich_help_panel=LOOK)
    app.add_typer(fleet.nodes, name="nodes", rich_help_panel=OPERATE)
    app.add_typer(log_policies.log_policies, name="log-policies", rich_help_panel=OPERATE)
    app.add_typer(projects.projects, name="projects", rich_help_panel=OPERATE)
    app.add_typer(access.keys, name="keys", rich_help_panel=OPERATE)
    app.add_typer(access.secrets, name="secrets", rich_help_panel=OPERATE)
    return app


def run(app: typer.Typer, arguments: list[str] | None = None) -> int:
    """Run a command; answers its exit code and never raises for expected problems."""
    command = typer.main.get_command(app)
    try:
        result = command.main(args=arguments, prog_name="quarterdeck", standalone_mode=True)
    except typer.Exit as stop:
        return int(stop.exit_code)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone: nothing is left to say, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return _code_of(error)
    return int(result or 0)


def _code_of(error: Exception) -> int:
    """Say an expected error and answer its exit code; raise an unexpected one again."""
    from quarterdeck.client import ConfigurationError, QuarterdeckError, WaitExpired

    if not isinstance(error, QuarterdeckError):
        raise error
    note(f"error: {explain(error)}")
    if isinstance(error, WaitExpired):
        return EXPIRED
    return USAGE if isinstance(error, ConfigurationError) else REFUSED
