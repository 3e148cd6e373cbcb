"""The commands that start and stop processes on this machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from quarterdeck.processes.chaos_commands import chaos

if TYPE_CHECKING:
    from quarterdeck.processes.home import Home
    from quarterdeck.processes.keys import KeyFiles
    from quarterdeck.processes.settings import Settings
    from quarterdeck.processes.up import Platform

PANEL = "Run the platform"
Slots = Annotated[
    int, typer.Option("--slots", min=1, help="Declared slots: how many ranks at once.")
]
Port = Annotated[int, typer.Option("--port", help="Of the api.")]
GatewayPort = Annotated[int, typer.Option("--gateway-port", help="Of the gateway.")]
Host = Annotated[str, typer.Option("--host", help="The address to listen on.")]


def mount(app: typer.Typer) -> None:
    """Add the commands of this file to the CLI."""
    for function in (up, down, demo, prepare, api, controller, gateway, agent):
        app.command(rich_help_panel=PANEL)(function)
    db = typer.Typer(help="The database: upgrade, wait, backup, restore.", no_args_is_help=True)
    db.command()(upgrade)
    db.command()(wait)
    db.command()(backup)
    db.command()(restore)
    app.add_typer(db, name="db", rich_help_panel=PANEL)
    app.add_typer(chaos, name="chaos", rich_help_panel=PANEL)


def up(
    slots: Slots = 10,
    port: Port = 8080,
    gateway_port: GatewayPort = 8081,
    foreground: Annotated[
        bool,
        typer.Option("--foreground/--detach", help="Stay until Ctrl-C, or go on without us."),
    ] = True,
    no_agent: Annotated[
        bool, typer.Option("--no-agent", help="Without Ray: nothing will be placed.")
    ] = False,
    node_ip: Annotated[
        str, typer.Option("--node-ip", help="Ray's address on this machine.")
    ] = "127.0.0.2",
) -> None:
    """Start the platform on this machine.

    That is api, controller, gateway, and the agent with Ray. Ctrl-C writes checkpoints, suspends
    jobs and stops everything; the next `up` resumes them.

    Example: quarterdeck up --slots 10
    """
    from quarterdeck.processes.up import Options, Platform, attached, detach

    options = Options(slots, port, gateway_port, not no_agent, node_ip)
    home = _home()
    with _failures():
        if (running := attached(home, _tell)) is not None:
            print(running.ready_line(), flush=True)
            _tell("it was up already; stop it with: quarterdeck down")
        elif not foreground:
            print(detach(home, options, _tell).ready_line(), flush=True)
        else:
            platform = Platform(home, options, _tell)
            platform.listen()
            platform.start()
            print(platform.ready_line(), flush=True)
            platform.run()


def down(
    purge: Annotated[
        bool, typer.Option("--purge", help="Remove data, keys and logs too. No way back.")
    ] = False,
) -> None:
    """Stop the platform on this machine.

    Jobs are suspended with a checkpoint for the next `up`; then every process ends, Ray included.

    Example: quarterdeck down
    """
    from quarterdeck.processes.down import down as stop

    home = _home()
    with _failures():
        was_up = stop(home, _tell, purge=purge)
    removed = f", {home.folder} removed" if purge else ""
    print(("stopped" if was_up else "nothing was running") + removed)


def demo(slots: Slots = 10, port: Port = 8080, gateway_port: GatewayPort = 8081) -> None:
    """Show the whole way on this machine.

    Train in 3D, kill a rank, see it resume, measure, serve, ask.

    Example: quarterdeck demo
    """
    from rich.console import Console

    from quarterdeck.client.config import read_key
    from quarterdeck.processes.demo import DemoFailed, run_demo
    from quarterdeck.processes.up import Options, Platform, attached

    home = _home()
    with _failures():
        own: Platform | None = None
        platform = attached(home, _tell)
        if platform is None:
            own = platform = Platform(home, Options(slots, port, gateway_port), _tell)
            own.listen()
            own.start()
        print(platform.ready_line(), flush=True)
        try:
            with platform.client(retry_seconds=20) as client, platform.watched():
                key = read_key(home.admin_key)
                run_demo(client, platform.options.gateway_url, key, Console())
        except BaseException as error:
            if own is not None:
                own.stop(suspend=isinstance(error, KeyboardInterrupt))
            if isinstance(error, DemoFailed):
                _fail(str(error))
            raise
        if own is not None and sys.stdout.isatty():
            _tell("the platform stays up; Ctrl-C stops it")
            own.run()
        elif own is not None:
            own.stop(suspend=False)


def prepare(
    agent_key: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Copy the agent's key there: FOLDER/key.")
    ] = None,
    database: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Make the database's FOLDER/password and FOLDER/url."),
    ] = None,
    database_url: Annotated[
        str, typer.Option(help="Without the password.")
    ] = "postgresql+psycopg://quarterdeck@postgres/quarterdeck",
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password; default: a random one.")
    ] = False,
) -> None:
    """Make what containers of one installation hand to each other, before they start.

    Each folder holds one part of the installation's secrets, for the containers that need it. What
    is there stays.

    Example: quarterdeck prepare --agent-key /srv/quarterdeck/agent
    """
    from quarterdeck.processes.preparation import hand_out_agent_key, hand_out_database

    if agent_key is None and database is None:
        _fail("name --agent-key, --database or both", 2)
    with _failures():
        if database is not None:
            given = sys.stdin.read().rstrip("\r\n") if password_stdin else None
            print(hand_out_database(database, database_url, given))
        if agent_key is not None:
            print(hand_out_agent_key(_home(), agent_key))


def api(
    host: Host = "127.0.0.1",
    port: Port = 8080,
    public_url: Annotated[
        str | None, typer.Option(help="Where other machines reach this api.")
    ] = None,
    migrate: Annotated[
        bool,
        typer.Option("--migrate/--no-migrate", help="Migrate first, or wait for who migrates."),
    ] = True,
) -> None:
    """Run one api process; migrates the database first.

    With --no-migrate it waits a minute for `quarterdeck db upgrade`, and serves a newer schema too.

    Example: QUARTERDECK_DATABASE_URL=postgresql+psycopg://… quarterdeck api --port 8080
    """
    from quarterdeck.processes.api import run_api

    settings = _settings()
    with _failures():
        run_api(settings, _keys(settings.home), host, port, public_url, to_migrate=migrate)


def controller(
    health_port: Annotated[
        int | None,
        typer.Option("--health-port", help="For /healthz, /readyz and /metrics; default: none."),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Where that port listens.")] = "127.0.0.1",
) -> None:
    """Run one controller process; several share the work.

    Example: quarterdeck controller --health-port 8082
    """
    from quarterdeck.processes.controller import run_controller

    with _failures():
        run_controller(_settings(), health_port, host)


def gateway(
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Of the gateway.")] = 8081,
    url: Annotated[str | None, typer.Option(help="Of the api; default: from the home.")] = None,
    key_file: Annotated[
        Path | None, typer.Option(help="With a key of access agent; default: the home's.")
    ] = None,
) -> None:
    """Run one gateway process: the OpenAI surface of all services.

    Example: quarterdeck gateway --port 8081
    """
    from quarterdeck.processes.gateway import run_gateway

    home = _home()
    with _failures():
        run_gateway(home, host, port, url or _url(home), key_file or _keys(home).agent.path)


def agent(
    url: Annotated[
        str | None, typer.Option("--url", help="Of the api; default: from the home.")
    ] = None,
    join: Annotated[
        str | None,
        typer.Option("--join", metavar="URL", help="Join the cluster if it has a head already."),
    ] = None,
    only_join: Annotated[
        bool, typer.Option("--only-join", help="With --join: wait for a head, never become one.")
    ] = False,
    cluster: Annotated[str, typer.Option(help="The cluster to start or to join.")] = "local",
    slots: Annotated[
        int | None,
        typer.Option(min=0, help="Declared slots, 0 of a head alone; default: GPUs, else cores."),
    ] = None,
    accelerator: Annotated[str, typer.Option(help="As in the hardware catalogue.")] = "cpu",
    node_ip: Annotated[
        str, typer.Option(help="This machine's address for Ray; auto: that towards the api.")
    ] = "127.0.0.2",
    label: Annotated[list[str] | None, typer.Option(help="NAME=VALUE; repeatable.")] = None,
    key_file: Annotated[
        Path | None, typer.Option(help="With a key of access agent; default: the home's.")
    ] = None,
    unreachable: Annotated[
        bool, typer.Option("--unreachable", help="Gateways outside cannot reach its engines.")
    ] = False,
    stop_ray: Annotated[
        bool, typer.Option("--stop-ray", help="End Ray and its runs when the agent ends.")
    ] = False,
    ray_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Of Ray's head; default: a free one.")
    ] = None,
    ray_token_file: Annotated[
        Path | None, typer.Option(help="With a head's token for Ray; default: the home's.")
    ] = None,
) -> None:
    """Give this machine to a cluster.

    The first machine starts Ray and the agent, others join. Ray outlives the agent, so that runs
    go on through its restarts; `quarterdeck down` ends it.

    Example: quarterdeck agent --join http://10.0.0.5:8080 --cluster lab --node-ip 10.0.0.7
    """
    from quarterdeck.processes.agent import AgentOptions, run_agent

    if only_join and join is None:
        raise typer.BadParameter("--only-join says how to join: give --join URL too")
    home = _home()
    labels = dict(text.partition("=")[::2] for text in label or [])
    options = AgentOptions(
        url=join or url or _url(home), cluster=cluster,
        key_file=key_file or _keys(home).agent.path,
        join=join is not None, only_join=only_join, slots=slots, node_ip=node_ip,
        accelerator=accelerator,
        endpoints_reachable=not unreachable, labels=labels, stop_ray=stop_ray,
        ray_port=ray_port, ray_token_file=ray_token_file,
    )  # fmt: skip
    with _failures():
        code = run_agent(home, options)
    if code:
        raise typer.Exit(code)


def upgrade(
    allow_newer: Annotated[
        bool, typer.Option("--allow-newer", help="A newer schema is no error: leave it alone.")
    ] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0, help="Seconds to wait for one that is silent.")
    ] = 0.0,
) -> None:
    """Migrate the database to this version; SQLite is backed up first.

    Example: quarterdeck db upgrade
    """
    from quarterdeck.processes.db import upgrade_database

    with _failures():
        print(upgrade_database(_settings(), allow_newer=allow_newer, seconds=timeout))


def wait(
    timeout: Annotated[
        float, typer.Option("--timeout", min=0, help="Seconds, after which it gives up.")
    ] = 600.0,
) -> None:
    """Wait until the database answers and has the schema of this version, or a newer one.

    Example: quarterdeck db wait --timeout 60
    """
    from quarterdeck.processes.db import wait_for_schema

    settings = _settings()
    with _failures():
        print(wait_for_schema(settings.database_url, timeout, _tell))


def backup(
    target: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="A new file; default: in the home."),
    ] = None,
) -> None:
    """Copy the database while it is in use.

    SQLite is copied by itself, PostgreSQL by pg_dump, which must be on PATH. Artifacts and the
    home's keys are not in it: keep keys/master too, without which secrets are lost.

    Example: quarterdeck db backup quarterdeck-2026-01-31.backup
    """
    from quarterdeck.processes.db import backup_database

    with _failures():
        print(backup_database(_settings(), target))


def restore(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="What `db backup` wrote.")],
) -> None:
    """Put a backup in the place of the database; api and controller must not run.

    What runs on machines goes on: when the platform is up again, runs that the backup does not know
    are taken back, and nothing that it knew is started before every cluster has told what lives.

    Example: quarterdeck db restore quarterdeck-2026-01-31.backup
    """
    from quarterdeck.processes.db import restore_database

    with _failures():
        print(restore_database(_settings(), source, _tell))


def _home() -> Home:
    from quarterdeck.processes.home import choose_home

    return choose_home(os.environ, Path.cwd(), Path.home())


def _keys(home: Home) -> KeyFiles:
    from quarterdeck.processes.keys import key_files

    return key_files(os.environ, home)


def _settings() -> Settings:
    from quarterdeck.processes.settings import read_settings

    try:
        return read_settings(os.environ, Path.cwd(), Path.home())
    except ValueError as error:
        _fail(str(error), 2)


def _url(home: Home) -> str:
    from quarterdeck.client.config import DEFAULT_URL

    if named := os.environ.get("QUARTERDECK_URL"):
        return named
    if home.url_file.is_file():
        return home.url_file.read_text(encoding="utf-8").strip()
    return DEFAULT_URL


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _fail(text: str, code: int = 1) -> NoReturn:
    _tell(f"error: {text}")
    raise typer.Exit(code)


class _failures:
    """Ends the command with a message for what is expected to go wrong."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        from quarterdeck.processes.failures import ProcessFailed, WorkersMissing

        if isinstance(error, WorkersMissing):
            _fail(str(error), 2)
        if isinstance(error, ProcessFailed):
            _fail(str(error))
