"""Roles of a command's gang, and how each machine's ranks are started."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from quarterdeck.specs.base import Spec
from quarterdeck.specs.common import Resources
from quarterdeck.specs.launchers import find_launcher

MOST_ROLES = 20
Launch = Literal["per_rank", "per_node"]


class Role(Spec):
    """Some ranks of a gang that run a command of their own, in a world of their own.

    `env` comes on top of the job's, each field of `resources` in place of the job's.
    """

    ranks: int = Field(default=1, ge=1, le=100_000)
    command: str = Field(min_length=1)
    env: dict[str, str] = {}
    resources: Resources | None = None


RoleName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,30}$")]
Roles = Annotated[dict[RoleName, Role], Field(min_length=1, max_length=MOST_ROLES)]


class LaunchFields(Spec):
    """`command` or `roles`, and whether a launcher may stand there."""

    roles: Roles | None = None
    """Ranks with commands of their own that find each other; instead of `command`."""
    command: str | None = Field(default=None, min_length=1)
    ranks: int = Field(default=1, ge=1, le=100_000)
    """Of a gang with roles: leave it out, it is their sum."""
    launch: Launch = "per_rank"
    """`per_node` starts the command once on each machine, for torchrun and its like."""

    @field_validator("roles")
    @classmethod
    def _all_or_none_name_accelerators(cls, roles: Roles | None, info: Any) -> Roles | None:
        common: Resources | None = info.data.get("resources")
        for name, role in (roles or {}).items():
            if role.resources is not None and role.resources.spot is not None:
                raise ValueError(
                    f"{name}.resources.spot: a gang is on such machines or not as a whole: write "
                    "it into resources of the job"
                )
        if not roles or (common and common.accelerator):
            return roles
        named = {
            name: role.resources.accelerator
            for name, role in roles.items()
            if role.resources and role.resources.accelerator
        }
        if named and (silent := [name for name in roles if name not in named]):
            some = next(iter(named))
            raise ValueError(
                f"{silent[0]}.resources.accelerator is missing, and {some} names {named[some]}: "
                "name one for every role (cpu is a declared slot of a machine without any), or "
                "resources.accelerator of the job, which holds for those that name none"
            )
        return roles

    @field_validator("command")
    @classmethod
    def _one_of_both(cls, command: str | None, info: Any) -> str | None:
        if "roles" in info.data and (command is None) == (info.data["roles"] is None):
            raise ValueError("write either command, or roles with a command each")
        return command

    @field_validator("ranks")
    @classmethod
    def _sum_of_roles(cls, ranks: int, info: Any) -> int:
        roles: Mapping[str, Role] = info.data.get("roles") or {}
        total = sum(role.ranks for role in roles.values())
        if roles and ranks not in (1, total):
            raise ValueError(f"the roles have {total} ranks in all, not {ranks}: leave ranks out")
        return total or ranks

    @field_validator("launch")
    @classmethod
    def _no_launcher_per_rank(cls, launch: Launch, info: Any) -> Launch:
        if launch == "per_node":
            return launch
        roles: Mapping[str, Role] = info.data.get("roles") or {}
        commands = {f"roles.{name}.command": role.command for name, role in roles.items()}
        commands["command"] = info.data.get("command") or ""
        for field, command in commands.items():
            if found := find_launcher(command):
                raise ValueError(
                    f"{field} starts {found}, which starts ranks itself, and per_rank would start "
                    f"it in every rank: write launch: per_node, which starts it once on each "
                    "machine, or start the script directly: RANK, WORLD_SIZE and MASTER_ADDR are "
                    "set"
                )
        return launch
