"""What a command may say of its roles and its launch."""

from __future__ import annotations

from typing import Any

import pytest

from quarterdeck.specs.kinds import DOCUMENT
from quarterdeck.specs.suggestions import DocumentError, parse_document


def document(**fields: Any) -> dict[str, Any]:
    return {"kind": "command", "name": "x", **fields}


ROLES = {"trainer": {"ranks": 3, "command": "a"}, "reward": {"command": "b"}}


def test_ranks_are_the_sum_of_the_roles_and_survive_being_stored() -> None:
    spec = parse_document(document(roles=ROLES), "")
    assert spec.rank_count == 4
    again = DOCUMENT.validate_python(spec.model_dump(mode="json"))
    assert (again, again.rank_count) == (spec, 4)


@pytest.mark.parametrize(
    ("fields", "path", "words"),
    [
        ({}, "command", "either command, or roles"),
        ({"command": "a", "roles": ROLES}, "command", "either command, or roles"),
        ({"roles": {}}, "roles", "at least 1 item"),
        ({"roles": ROLES, "ranks": 8}, "ranks", "4 ranks in all, not 8"),
        ({"roles": {"A": {"command": "a"}}}, "roles.A", "pattern"),
        ({"roles": {"a": {"comand": "a"}}}, "roles.a.comand", "did you mean 'command'"),
        (
            {
                "roles": {
                    "a": {"command": "a", "resources": {"accelerator": "H100"}},
                    "b": {"command": "b", "resources": {"cpus": 1}},
                }
            },
            "roles",
            "b.resources.accelerator is missing, and a names H100: name one for every role",
        ),
        (
            {"roles": {"a": {"command": "a", "resources": {"acelerator": "H100"}}}},
            "roles.a.resources.acelerator",
            "did you mean 'accelerator'",
        ),
        ({"command": "cd x && torchrun t.py"}, "launch", "command starts torchrun"),
        (
            {"roles": {"a": {"command": "accelerate launch t.py"}}},
            "launch",
            "roles.a.command starts accelerate launch",
        ),
        ({"command": "true", "launch": "per_host"}, "launch", "per_node"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], path: str, words: str) -> None:
    with pytest.raises(DocumentError) as caught:
        parse_document(document(**fields), "")
    found = {error.path: error.message for error in caught.value.errors}
    assert any(where.startswith(path) and words in why for where, why in found.items()), found


@pytest.mark.parametrize("common", [{}, {"accelerator": "H100"}])
def test_roles_name_accelerators_all_or_where_the_job_names_one(common: dict[str, Any]) -> None:
    roles = {
        "trainer": {"command": "a", "resources": {"accelerator": "L4", "cpus": 2}},
        "driver": {"command": "b", "resources": {} if common else {"accelerator": "cpu"}},
    }
    spec = parse_document(document(roles=roles, resources=common), "")
    assert DOCUMENT.validate_python(spec.model_dump(mode="json")) == spec


def test_a_role_stored_before_accelerators_is_read() -> None:
    stored = parse_document(document(roles=ROLES), "").model_dump(mode="json")
    stored["roles"]["reward"]["resources"] = {"cpus": 2.0, "memory": None}
    spec = DOCUMENT.validate_python(stored)
    assert spec.model_dump(mode="json")["roles"]["reward"]["resources"]["accelerator"] is None


def test_a_launcher_is_welcome_once_on_each_machine() -> None:
    spec = parse_document(document(command="torchrun train.py", ranks=4, launch="per_node"), "")
    assert spec.rank_count == 4
