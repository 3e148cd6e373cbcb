"""Commands that say where runs go: projects with clusters of their own, images, spot machines."""

from __future__ import annotations

import json

from tests.integration.client.test_cli import Cli, cli

__all__ = ["cli"]


def test_projects_are_made_isolated_and_shown(cli: Cli) -> None:
    made = cli("projects", "create", "nlp", "--isolation", "cluster")
    assert (made.code, made.out) == (0, "project/nlp created\n")
    assert "no cluster of its own yet" in made.err and "--project nlp" in made.err
    assert cli("projects", "create", "cv").err == ""
    assert cli("projects", "isolate", "cv").out == "project/cv isolation cluster\n"
    opened = cli("projects", "isolate", "project/cv", "--isolation", "shared")
    assert (opened.out, opened.err) == ("project/cv isolation shared\n", "")
    listed = {row[0]: row[1] for row in cli("projects").rows[1:]}
    assert listed == {"cv": "shared", "default": "shared", "nlp": "cluster"}
    wrong = cli("projects", "isolate", "cv", "--isolation", "own")
    assert wrong.code == 2 and "write one of shared, cluster" in wrong.err
    assert cli("projects", "isolate", "nobody").code == 1


def test_a_program_names_its_image_and_machines(cli: Cli) -> None:
    plain = ("submit", "-d", "--no-workdir", "--name")
    said = cli(*plain, "own", "--image", "team/train:3", "--spot", "only", "--", "true")
    assert said.code == 0, said.err
    assert cli(*plain, "plain", "--", "true").code == 0
    jobs = {job["name"]: job["spec"] for job in json.loads(cli("jobs", "-o", "json").out)}
    assert jobs["own"]["environment"] == {"image": "team/train:3"}
    assert jobs["own"]["resources"]["spot"] == "only"
    assert jobs["plain"]["environment"] is None
    assert jobs["plain"]["resources"]["spot"] is None
    assert "environment.image" in cli(*plain, "bad", "--image", "no image", "--", "true").err
    assert "resources.spot" in cli(*plain, "bad", "--spot", "maybe", "--", "true").err
