"""What routing reads of a request, and of an engine's metrics."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.gateway.engine_loads import EngineLoad, read_load
from quarterdeck.gateway.route_request import LONGEST_PROMPT, route_request
from quarterdeck.routing.replicas import RouteRequest
from quarterdeck.specs.routing import POLICY_NAMES, Routing, RoutingSettings

PREFIX, SESSION = RoutingSettings(policy="prefix"), RoutingSettings(policy="session")


def chat(*contents: object) -> dict[str, object]:
    roles = ["system", *["user", "assistant"] * 10]
    return {
        "messages": [
            {"role": role, "content": content}
            for role, content in zip(roles, contents, strict=False)
        ]
    }


def test_later_turns_begin_with_the_earlier_and_share_their_opening() -> None:
    first = route_request(PREFIX, [], chat("Be brief.", "Hi"))
    second = route_request(PREFIX, [], chat("Be brief.", "Hi", "Hello!", "And now?"))
    assert first.prompt == first.opening == "system\nBe brief.\nuser\nHi\n"
    assert second.prompt.startswith(first.prompt) and second.opening == first.opening
    assert first.own_after == second.own_after == len(first.prompt)
    parts = chat([{"type": "text", "text": "Be brief."}], [{"type": "image_url"}, {"text": "Hi"}])
    assert route_request(PREFIX, [], parts) == first
    responses = {"instructions": "Be brief.", "input": [{"role": "user", "content": "Hi"}]}
    assert route_request(PREFIX, [], responses) == first


def test_prompts_of_every_form_are_read_and_bounded() -> None:
    assert route_request(PREFIX, [], {"prompt": "def f"}).prompt == "def f"
    assert route_request(PREFIX, [], {"prompt": ["def f", "x"]}).prompt == "def f"
    assert route_request(PREFIX, [], {"input": "def f"}).prompt == "def f"
    tokens = route_request(PREFIX, [], {"prompt": [1, 2, 50_000]})
    assert len(tokens.prompt) == 3
    assert route_request(PREFIX, [], {"prompt": [[1, 2, 50_000]]}) == tokens
    long = route_request(PREFIX, [], {"prompt": "x" * 10**6})
    assert len(long.prompt) == LONGEST_PROMPT == long.own_after and len(long.opening) == 1024
    many = route_request(PREFIX, [], chat("s", *["y" * 10**5] * 20))
    assert len(many.prompt) == LONGEST_PROMPT


def test_a_session_is_the_header_or_what_the_body_says() -> None:
    header = [(b"x-session-id", b" one ")]
    body = {"user": "ada", "prompt_cache_key": "two"}
    assert route_request(SESSION, header, body).session == "one"
    assert route_request(SESSION, [], body).session == "two"
    assert route_request(SESSION, [], {"user": "ada"}).session == "ada"
    assert route_request(SESSION, [], {"user": 7}).session == ""
    own = RoutingSettings(policy="session", session_header="x-tenant")
    assert route_request(own, [(b"x-tenant", b"t" * 999)], {}).session == "t" * 256
    adapter = RoutingSettings(policy="adapter")
    assert route_request(adapter, [(b"x-adapter", b"fr")], {}).adapter == "fr"


def test_policies_that_do_not_look_read_nothing() -> None:
    request = route_request(RoutingSettings(), [(b"x-session-id", b"one")], chat("a", "b"))
    assert request == RouteRequest()


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
KEYS = ["messages", "prompt", "input", "instructions", "user", "prompt_cache_key"]
bodies = st.dictionaries(st.sampled_from(KEYS), junk)


@given(st.sampled_from(POLICY_NAMES), bodies, st.lists(st.tuples(st.binary(), st.binary())))
def test_nothing_that_clients_send_breaks_it(
    policy: str, body: dict[str, object], headers: list[tuple[bytes, bytes]]
) -> None:
    request = route_request(RoutingSettings(policy=policy), headers, json.loads(json.dumps(body)))
    assert len(request.prompt) <= LONGEST_PROMPT and request.prompt.startswith(request.opening)


def test_a_header_that_carries_a_secret_keeps_no_session() -> None:
    with pytest.raises(ValueError, match="carries a secret"):
        Routing.model_validate({"session_header": "Authorization"})
    assert Routing.model_validate({"session_header": "X-Chat"}).session_header == "x-chat"


VLLM = """# HELP vllm:num_requests_waiting Waiting.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{model_name="m"} 4.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{model_name="m"} 0.75
# TYPE vllm:lora_requests_info gauge
vllm:lora_requests_info{max_lora="2",running_lora_adapters="a",waiting_lora_adapters=""} 10.0
vllm:lora_requests_info{max_lora="2",running_lora_adapters="a,b",waiting_lora_adapters="c"} 12.0
"""


def test_engine_numbers_are_read_from_prometheus_text() -> None:
    assert read_load(VLLM) == EngineLoad(4, 0.25, frozenset("ab"), frozenset("c"), 2)
    builtin = "# TYPE quarterdeck_engine_waiting_sequences gauge\n"
    builtin += "quarterdeck_engine_waiting_sequences 3.0\n"
    assert read_load(builtin) == EngineLoad(waiting=3)
    builtin += "quarterdeck_engine_kv_cache_usage_ratio 0.75\n"
    assert read_load(builtin) == EngineLoad(waiting=3, kv_free=0.25)
    ranks = 'vllm:kv_cache_usage_perc{engine="0"} 0.5\nvllm:kv_cache_usage_perc{engine="1"} 0.9\n'
    assert read_load(ranks).kv_free == pytest.approx(0.1)
    assert read_load("") == EngineLoad()
    for bad in ("a{b=", "vllm:num_requests_waiting nine\n", "vllm:num_requests_waiting NaN\n"):
        with pytest.raises(ValueError):
            read_load(bad)
