"""An outsider's fuzzer over every operation: each reaches a 2xx, none a 5xx or an undocumented
answer."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded_with
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from quarterdeck.controller.loop import Controller
from tests.integration.api.conftest import NOW, Platform, agent_beat, command

EXAMPLES = 6
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
SHORT = {"longest_stream": 0.0, "keep_alive_seconds": 0.05, "longest_wait": 0.1}
EMPTY = hashlib.sha256(b"").hexdigest()
MODEL = {"kind": "model", "name": "m", "digest": "d", "uri": "file:///m"}


@dataclass
class Good:
    """What makes an operation succeed."""

    path: dict[str, str] = field(default_factory=dict)
    body: Any = None
    query: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


def seed(platform: Platform) -> tuple[dict[str, Good], str]:
    """Resources of every noun, made as machines and people make them; what makes each operation
    succeed, by its id, and the run's key."""
    admin, agent = platform.admin, platform.agent
    for nodes in (2, 1):  # the second machine is gone
        agent.post("/agents/a/beat", agent_beat(nodes=nodes, slots=32))
    admin.put("/secrets/TOKEN", {"value": "x"})
    for name in ("a", "b", "doomed", "ended"):
        assert admin.post("/jobs", command(name)).status_code == 201
    admin.post("/jobs/ended/cancel")
    service = {"kind": "service", "name": "s", "model": "file:///model"}
    for name in ("s", "gone"):
        admin.post("/apply", {"documents": [{**service, "name": name}]})
    for batch in (1, 2):
        revised = {**service, "name": "revised", "engine_args": {"max_batch": batch}}
        admin.post("/apply", {"documents": [revised]})
    controller = Controller(platform.database)
    for _ in range(5):
        controller.tick()
    starts = agent.get("/agents/a/work").json()["start"]
    jobs = {job["run_id"]: job for job in admin.get("/jobs").json()["items"] if job["run_id"]}
    start = next(one for one in starts if jobs.get(one["run_id"], {}).get("name") == "a")
    unclaimed = next(one for one in starts if jobs.get(one["run_id"], {}).get("name") == "b")
    order = agent.post(
        f"/runs/{start['run_id']}/claim", {"epoch": start["epoch"], "agent_id": "agent-1"}
    ).json()
    beat = {
        "epoch": start["epoch"], "seq": 1, "sent_at": NOW.isoformat(), "step": 1,
        "reported_phase": "running",
        "metrics": [{"step": 1, "values": {"loss": 1.0}, "at": NOW.isoformat()}],
        "logs": [{"rank": 0, "seq": 1, "lines": [[1.0, "line"]]}],
        "checkpoints": [{"step": 1, "epoch": start["epoch"], "uri": "file:///c", "files": []}],
        "outputs": [
            MODEL, {**MODEL, "kind": "dataset"}, {**MODEL, "kind": "tokenizer"},
            {**MODEL, "name": "big", "digest": "d" * 64, "files": [
                {"path": "model.safetensors", "size": 1, "sha256": "e" * 64}
            ]},
        ],
    }  # fmt: skip
    run = admin.with_key(order["run_key"])
    assert run.post(f"/runs/{start['run_id']}/beat", beat).status_code == 200
    assert admin.post("/models/big/versions/1/warm", {}).status_code == 200
    big = admin.get("/models/big/versions/1").json()["id"]
    checkpoint = admin.get("/checkpoints").json()["items"][0]["id"]
    victim = admin.post("/keys", {"name": "victim", "access": "viewer"}).json()["id"]
    pretrain = {
        "kind": "pretrain", "name": "p", "architecture": "llama-3-8b", "datasets": "m",
        "training": {"steps": 10}, "resources": {"accelerator": "H100"},
    }  # fmt: skip
    good = {name: Good() for name in (
        "list_jobs", "list_services", "list_events", "list_runs", "list_checkpoints",
        "list_clusters", "list_nodes", "list_keys", "list_secrets", "list_projects", "whoami",
        "doctor", "healthz", "readyz", "metrics", "gateway_snapshot",
    )}  # fmt: skip
    for name in ("get_job", "suspend_job", "resume_job", "why_job", "job_events", "job_logs",
                 "job_metrics", "job_runs", "job_goodput", "job_checkpoints"):  # fmt: skip
        good[name] = Good({"id": "a"})
    for name in ("get_service", "list_revisions", "why_service", "service_events",
                 "service_logs", "get_rollout"):  # fmt: skip
        good[name] = Good({"id": "s"})
    for kind in ("model", "dataset", "tokenizer"):
        good[f"list_{kind}s"] = Good()
        good[f"list_{kind}_versions"] = Good({"name": "m"})
        good[f"get_{kind}_version"] = Good({"name": "m", "version": "1"})
        good[f"set_{kind}_alias"] = Good({"name": "m", "alias": "prod"}, {"version": 1})
    good |= {
        "apply": Good(body={"documents": [command("applied")]}),
        "submit_job": Good(body=command("submitted")),
        "cancel_job": Good({"id": "doomed"}),
        "retry_job": Good({"id": "ended"}),
        "put_service": Good({"id": "s"}, service, headers={"If-Match": "*"}),
        "scale_service": Good({"id": "s"}, {"replicas": 2}),
        "steer_rollout": Good({"id": "s", "action": "pause"}),
        "warm_model": Good({"name": "big", "version": "1"}, {"nodes": ["node1"]}),
        "model_warmth": Good({"name": "big", "version": "1"}),
        "weights_order": Good({"cluster": "a", "asset_id": big}),
        "undo_rollout": Good({"id": "revised"}, {"to": 1}),
        "gateway_wake": Good(body={"project": "default", "service": "revised"}),
        "gateway_observations": Good(
            body={
                "gateway": "g",
                "seq": 1,
                "revisions": [
                    {"project": "default", "service": "s", "requests": 1},
                ],
            }
        ),
        "delete_service": Good({"id": "gone"}),
        "get_run": Good({"id": start["run_id"]}),
        "get_checkpoint": Good({"id": checkpoint}),
        "get_cluster": Good({"id": "a"}),
        "join_cluster": Good({"name": "a"}, {"host": "h", "versions": {"ray": "2.60.0"}}),
        "get_node": Good({"id": "node1"}),
        "cordon_node": Good({"id": "node1"}),
        "uncordon_node": Good({"id": "node1"}),
        "get_log_policies": Good(),
        "put_log_policies": Good(body={"policies": []}),
        "fleet_goodput": Good(),
        "confirm_dead": Good({"id": "node2"}, {"reason": "it burnt"}),
        "create_key": Good(body={"name": "ada", "access": "viewer"}),
        "revoke_key": Good({"id": victim}),
        "put_secret": Good({"name": "TOKEN"}, {"value": "y"}),
        "delete_secret": Good({"name": "TOKEN"}),
        "create_project": Good(body={"name": "nlp"}),
        "change_project": Good({"name": "default"}, {"isolation": "shared"}),
        "plan": Good(body={"document": pretrain}),
        "agent_beat": Good({"cluster": "a"}, agent_beat(slots=32)),
        "agent_work": Good({"cluster": "a"}),
        "claim": Good(
            {"id": unclaimed["run_id"]}, {"epoch": unclaimed["epoch"], "agent_id": "agent-1"}
        ),
        "run_beat": Good({"id": start["run_id"]}, {**beat, "seq": 2}),
        "put_artifact": Good({"digest": EMPTY}, b""),
        "get_artifact": Good({"digest": EMPTY}),
        "get_artifact_content": Good({"digest": EMPTY}),
        "problem_page": Good({"name": "not_found"}),
    }
    return good, order["run_key"]


def test_every_operation_succeeds_once_and_never_answers_what_is_not_documented(
    open_api: Callable[..., Platform],
) -> None:
    platform = open_api(**SHORT)
    good, run_key = seed(platform)
    schema = schemathesis.openapi.from_asgi("/openapi.json", platform.http.app)
    operations = [found.ok() for found in schema.get_all_operations()]
    names = {operation.definition.raw["operationId"]: operation for operation in operations}
    assert set(names) == set(good)

    def headers(name: str) -> dict[str, str]:
        key = run_key if name == "run_beat" else platform.admin.key
        return {"Authorization": f"Bearer {key}"}

    succeeded: dict[str, int] = {}
    for name, operation in names.items():
        one = good[name]
        options: dict[str, Any] = {"query": one.query, "path_parameters": one.path}
        if one.body is not None:
            media_type = "application/octet-stream" if one.body == b"" else "application/json"
            options |= {"body": one.body, "media_type": media_type}
        case = operation.Case(**options)
        response = case.call(headers={**headers(name), **one.headers})
        case.validate_response(response, checks=CHECKS)
        succeeded[name] = response.status_code
    assert {name: code for name, code in succeeded.items() if code // 100 != 2} == {}

    chance = random.Random(1)
    for name, operation in names.items():
        fuzz(operation, headers(name), good[name], chance)


def fuzz(operation: Any, headers: dict[str, str], one: Good, chance: random.Random) -> None:
    """Ask one operation with generated parameters and bodies, half of them about a real thing."""

    @seeded_with(1)
    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy())
    def ask(case: Any) -> None:
        if one.path and chance.random() < 0.5:
            case.path_parameters = dict(one.path)
        response = case.call(headers=headers)
        case.validate_response(response, checks=CHECKS)

    ask()
