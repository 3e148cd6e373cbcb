"""What a service asks of gateways: limits, fallback, aliases, shadows; and what they tell."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.integration.gateway.gates import BODY, USAGE, code_of, metric


def test_limits_of_a_key(api: Any, gateways: Any, kit: Any, scripted: Any) -> None:
    replica = scripted("run-1", lambda n: [kit.whole(USAGE)])
    keys = [
        kit.KEYS[0].model_copy(update={"requests_per_minute": 3, "tokens_per_minute": 100_000}),
        *kit.KEYS[1:],
    ]
    api.publish(kit.route("chat", replica.endpoint()), keys=keys)
    gateway = gateways()
    gateway.wait_for("chat")
    with gateway.client() as client, gateway.client(kit.ALL_KEY) as free:
        answers = [client.post("/v1/completions", json=BODY) for _ in range(3)]
        assert [a.headers["x-ratelimit-remaining-requests"] for a in answers] == ["2", "1", "0"]
        # 12 tokens were used by each, whatever was guessed before.
        assert 99_000 < int(answers[2].headers["x-ratelimit-remaining-tokens"]) < 100_000
        refused = client.post("/v1/completions", json=BODY)
        assert (refused.status_code, code_of(refused)) == (429, "rate_limit_exceeded")
        assert "3 requests a minute" in refused.json()["error"]["message"]
        assert 1 <= int(refused.headers["retry-after"]) <= 20
        plain = free.post("/v1/completions", json=BODY)
        assert plain.status_code == 200 and "x-ratelimit-limit-requests" not in plain.headers
    assert len(replica.requests) == 4


def test_a_fallback_answers_for_a_service_that_cannot(
    api: Any, gateways: Any, kit: Any, scripted: Any
) -> None:
    small = scripted("small-1", lambda n: [kit.whole(USAGE)])
    wrong = scripted("chat-1", lambda n: [kit.whole(b'{"error": {}}', "400 Bad Request")])
    fine = kit.route("small", small.endpoint())
    api.publish(kit.route("chat", fallback="small"), fine)
    gateway = gateways()
    gateway.wait_for("chat", "small")
    with gateway.client() as client:
        answer = client.post("/v1/completions", json=BODY)
        assert answer.status_code == 200
        assert answer.headers["x-quarterdeck-replica"] == "small-1"
        served = httpx.get(gateway.url + "/metrics").text
        assert 'replica="small-1",revision="",service="small"' in served
        assert json.loads(small.requests[0][2])["model"] == "small"
        # A refusal of the request itself is no reason to ask another model.
        api.publish(kit.route("chat", wrong.endpoint(), fallback="small"), fine)
        kit.wait_until(
            lambda: client.post("/v1/completions", json=BODY).status_code == 400, "never 400"
        )
    assert metric(gateway.url, "quarterdeck_gateway_fallbacks_total") >= 1


def test_aliases_share_by_weight_and_follow_headers(
    api: Any, gateways: Any, kit: Any, scripted: Any
) -> None:
    big = scripted("big-1", lambda n: [kit.whole(USAGE)])
    small = scripted("small-1", lambda n: [kit.whole(USAGE)])
    api.publish(
        kit.route("big", big.endpoint(), aliases=[{"name": "gpt-x", "weight": 3}]),
        kit.route(
            "small", small.endpoint(),
            aliases=[
                {"name": "gpt-x", "weight": 1},
                {"name": "gpt-x", "headers": {"x-team": "nlp"}},
            ],
        ),
    )  # fmt: skip
    gateway = gateways()
    gateway.wait_for("big", "small", "gpt-x")
    with gateway.client() as client:
        for _ in range(120):
            assert client.post("/v1/completions", json={**BODY, "model": "gpt-x"}).is_success
        assert len(small.requests) + len(big.requests) == 120
        assert 15 <= len(small.requests) <= 47  # 30 expected, σ = 4.7
        before = len(small.requests)
        for _ in range(5):
            answer = client.post(
                "/v1/completions", json={**BODY, "model": "gpt-x"}, headers={"x-team": "nlp"}
            )
            assert answer.headers["x-quarterdeck-replica"] == "small-1"
        assert len(small.requests) == before + 5


def test_a_mirror_gets_copies_and_harms_nobody(
    api: Any, gateways: Any, kit: Any, scripted: Any
) -> None:
    live = scripted("live-1", lambda n: [kit.whole(USAGE)])
    shadow = scripted("shadow-1", lambda n: [kit.RESET])
    api.publish(
        kit.route("chat", live.endpoint(), mirror={"service": "next", "share": 1.0}),
        kit.route("next", shadow.endpoint()),
    )
    gateway = gateways()
    gateway.wait_for("chat", "next")
    with gateway.client() as client:
        for _ in range(5):
            answer = client.post("/v1/completions", json=BODY)
            assert answer.status_code == 200
            assert answer.headers["x-quarterdeck-replica"] == "live-1"
    kit.wait_until(
        lambda: metric(gateway.url, "quarterdeck_gateway_mirrored_requests_total{") == 5,
        "copies were not made",
    )
    assert shadow.requests and json.loads(shadow.requests[0][2])["model"] == "next"


def test_one_line_for_each_request(
    api: Any, gateways: Any, kit: Any, scripted: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    replica = scripted("run-1", lambda n: [kit.whole(USAGE)])
    api.publish(kit.route("chat", replica.endpoint()))
    gateway = gateways()
    gateway.wait_for("chat")
    trace = "0af7651916cd43dd8448eb211c80319c"
    with gateway.client() as client:
        client.post(
            "/v1/completions", json={**BODY, "prompt": "a secret"},
            headers={"x-request-id": "mine", "traceparent": f"00-{trace}-b7ad6b7169203331-01"},
        )  # fmt: skip
        client.post("/v1/completions", json={"model": "nothing"})
        client.post("/v1/completions", json=BODY, headers={"authorization": "Bearer qd_wrong"})
    text = ""

    def all_there() -> bool:
        nonlocal text
        text += capfd.readouterr().out
        return text.count('"request_id"') == 3 and text.endswith("\n")

    kit.wait_until(all_there, "lines are missing")
    # A line is written when all is done, and the next request may have begun by then.
    records = {each["status"]: each for each in map(json.loads, text.splitlines())}
    good, missing, denied = records[200], records[404], records[401]
    assert good["request_id"] == "mine" and good["status"] == 200 and good["trace_id"] == trace
    assert (good["tokens_in"], good["tokens_out"], good["replica"]) == (5, 7, "run-1")
    assert missing["model"] == "nothing" and "key" not in denied
    assert "a secret" not in text and kit.USER_KEY not in text and "qd_wrong" not in text
    passed = replica.requests[0][1]["traceparent"]
    assert passed.startswith(f"00-{trace}-") and "b7ad6b7169203331" not in passed


def test_series_of_a_replica_end_with_it(api: Any, gateways: Any, kit: Any, scripted: Any) -> None:
    replica = scripted("run-1", lambda n: [kit.whole(USAGE)])
    api.publish(kit.route("chat", replica.endpoint()))
    gateway = gateways()
    gateway.wait_for("chat")
    with gateway.client() as client:
        client.post("/v1/completions", json=BODY)
    text = httpx.get(gateway.url + "/metrics").text
    assert 'quarterdeck_gateway_output_tokens_sum{project="default",replica="run-1"' in text
    api.publish(kit.route("chat"))
    kit.wait_until(
        lambda: 'replica="run-1"' not in httpx.get(gateway.url + "/metrics").text,
        "the series outlived their replica",
    )


def test_operators_may_ask_why_this_replica(
    api: Any, gateways: Any, kit: Any, scripted: Any
) -> None:
    replica = scripted("run-1", lambda n: [kit.whole(USAGE)])
    away = replica.endpoint().model_copy(update={"run_id": "run-2", "ready": False})
    api.publish(kit.route("chat", replica.endpoint(), away))
    gateway = gateways()
    gateway.wait_for("chat")
    with gateway.client(kit.ALL_KEY) as client:
        answer = client.post("/v1/completions?explain=1", json=BODY)
        plain = client.post("/v1/completions?explain=0", json=BODY)
    told = json.loads(answer.headers["x-quarterdeck-explain"])
    assert (told["policy"], told["chosen"], told["attempt"]) == ("power_of_two", "run-1", 1)
    assert told["why"]
    scored, left_out = told["replicas"]
    assert scored["replica"] == "run-1" and "score" in scored
    assert left_out["replica"] == "run-2" and "ready" in left_out["left_out"]
    assert answer.status_code == 200 and "x-quarterdeck-explain" not in plain.headers
    with gateway.client() as client:
        denied = client.post("/v1/completions?explain=1", json=BODY)
    assert (denied.status_code, code_of(denied)) == (403, "access_denied")


def test_a_gateway_takes_its_part_of_a_limit(
    api: Any, gateways: Any, kit: Any, scripted: Any
) -> None:
    replica = scripted("run-1", lambda n: [kit.whole(USAGE)])
    key = kit.KEYS[0].model_copy(update={"requests_per_minute": 100})
    api.shares = {"gateways": 2, "shares": {key.sha256: 0.03}}
    api.publish(kit.route("chat", replica.endpoint()), keys=[key, *kit.KEYS[1:]])
    gateway = gateways()
    gateway.wait_for("chat")

    def told() -> float:
        return sum(report["demand"].get(key.sha256, 0.0) > 0 for report in api.reports)

    with gateway.client() as client:
        assert client.post("/v1/completions", json=BODY).status_code == 200
        kit.wait_until(lambda: told() >= 1, "the demand was not reported")
        kit.wait_until(
            lambda: client.post("/v1/completions", json=BODY).status_code == 429,
            "the share was not taken",
        )
        refused = client.post("/v1/completions", json=BODY)
        assert "100 requests a minute" in refused.json()["error"]["message"]
    assert len(replica.requests) < 100
    before = told()
    kit.wait_until(lambda: told() > before, "refused requests are demand too")


def test_who_failed_before_a_fallback_is_not_counted_as_the_fallbacks(
    api: Any, gateways: Any, kit: Any, scripted: Any
) -> None:
    sick = scripted("chat-1", lambda n: [kit.RESET])
    api.publish(kit.route("chat", sick.endpoint(), fallback="small"), kit.route("small"))
    gateway = gateways()
    gateway.wait_for("chat", "small")
    with gateway.client() as client:
        answer = client.post("/v1/completions", json=BODY)
    assert (answer.status_code, code_of(answer)) == (503, "no_ready_replica")
    told = httpx.get(gateway.url + "/metrics").text
    assert 'replica="",revision="",service="small"' in told
    assert 'replica="chat-1"' not in told
