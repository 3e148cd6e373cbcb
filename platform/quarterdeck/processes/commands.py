"""The commands that start and stop processes on this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quarterdeck.processes.chaos_commands import chaos
from quarterdeck.processes.db_commands import db
from quarterdeck.processes.surroundings import (
    fail,
    failures,
    own_home,
    own_keys,
    own_settings,
    own_url,
    tell,
)

if TYPE_CHECKING:
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
    home = own_home()
    with failures():
        if (running := attached(home, tell)) is not None:
            print(running.ready_line(), flush=True)
            tell("it was up already; stop it with: quarterdeck down")
        elif not foreground:
            print(detach(home, options, tell).ready_line(), flush=True)
        else:
            platform = Platform(home, options, tell)
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

    home = own_home()
    with failures():
        was_up = stop(home, tell, purge=purge)
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

    home = own_home()
    with failures():
        own: Platform | None = None
        platform = attached(home, tell)
        if platform is None:
            own = platform = Platform(home, Options(slots, port, gateway_port), tell)
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
                fail(str(error))
            raise
        if own is not None and sys.stdout.isatty():
            tell("the platform stays up; Ctrl-C stops it")
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
        fail("name --agent-key, --database or both", 2)
    with failures():
        if database is not None:
            given = sys.stdin.read().rstrip("\r\n") if password_stdin else None
            print(hand_out_database(database, database_url, given))
        if agent_key is not None:
            print(hand_out_agent_key(own_home(), agent_key))


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

    settings = own_settings()
    with failures():
        run_api(settings, own_keys(settings.home), host, port, public_url, to_migrate=migrate)


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

    with failures():
        run_controller(own_settings(), health_port, host)


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

    home = own_home()
    with failures():
        run_gateway(home, host, port, url or own_url(home), key_file or own_keys(home).agent.path)


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
    project: Annotated[
        str | None,
        typer.Option(help="Of a head: whose runs alone go to this cluster; default: shared."),
    ] = None,
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
    home = own_home()
    labels = dict(text.partition("=")[::2] for text in label or [])
    options = AgentOptions(
        url=join or url or own_url(home), cluster=cluster,
        key_file=key_file or own_keys(home).agent.path,
        join=join is not None, only_join=only_join, slots=slots, node_ip=node_ip,
        accelerator=accelerator,
        endpoints_reachable=not unreachable, project=project, labels=labels, stop_ray=stop_ray,
        ray_port=ray_port, ray_token_file=ray_token_file,
    )  # fmt: skip
    with failures():
        code = run_agent(home, options)
    if code:
        raise typer.Exit(code)
