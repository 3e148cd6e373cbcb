"""When a replica is unhealthy, why an engine has ended, and how its start is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from quarterdeck_workers.engine.engine_failures import OutputMemory, why_ended, why_raised
from quarterdeck_workers.engine.liveness import (
    MOST_FAILURES,
    PROBE_EVERY,
    PROBE_TIMEOUT,
    Liveness,
    ProbeOutcome,
)
from quarterdeck_workers.engine.probing import METRICS_TIMEOUT
from quarterdeck_workers.engine.start_progress import Sign, StartProgress
from quarterdeck_workers.engine.start_record import keep_start, last_start, record_of

OK = ProbeOutcome(True)
LATE = ProbeOutcome(False, "no answer within 5 s", busy=True)
WRONG = ProbeOutcome(False, "answered 500")


def fed(*outcomes: tuple[ProbeOutcome, float | None]) -> Liveness:
    liveness = Liveness(10)
    for outcome, progress in outcomes:
        liveness.probed(outcome, progress)
    return liveness


def test_three_late_answers_while_the_counter_stands_still_are_too_many() -> None:
    assert fed((LATE, 10), (LATE, 10)).healthy
    assert not fed((LATE, 10), (LATE, 10), (LATE, 10)).healthy
    assert fed((LATE, 10), (LATE, 10), (OK, 11), (LATE, 11), (LATE, 11)).healthy


def test_one_that_hangs_is_known_within_thirty_seconds() -> None:
    each = PROBE_TIMEOUT + METRICS_TIMEOUT  # it answers neither
    assert PROBE_EVERY + MOST_FAILURES * max(each, PROBE_EVERY) < 30


def test_late_answers_of_an_engine_that_works_do_not_count() -> None:
    assert fed(*((LATE, 10 + n) for n in range(1, 9))).healthy
    assert not fed((LATE, 11), (LATE, 11), (LATE, 11), (LATE, 11)).healthy


def test_an_engine_that_tells_no_number_stands_still() -> None:
    assert not fed((LATE, None), (LATE, None), (LATE, None)).healthy
    # Its metrics come back with what they were: still nothing has moved.
    assert not fed((LATE, None), (LATE, 10), (LATE, 10)).healthy


def test_wrong_answers_count_whatever_it_generates_for_others() -> None:
    liveness = fed((WRONG, 11), (WRONG, 12), (WRONG, 13))
    assert "answered 500" in liveness.why
    liveness.probed(LATE, 14)
    assert not liveness.healthy  # that it works is no answer yet
    liveness.probed(OK, 15)
    assert liveness.healthy


VLLM_CRASH = """\
INFO 11-21 10:00:00 [api_server.py:1] vLLM API server
(EngineCore pid=7) Traceback (most recent call last):
(EngineCore pid=7)   File "core.py", line 700, in run
(EngineCore pid=7)     raise ValueError("No available memory for the cache blocks.")
(EngineCore pid=7) ValueError: No available memory for the cache blocks.
Traceback (most recent call last):
  File "api_server.py", line 5, in <module>
RuntimeError: Engine core initialization failed. See root cause above.
"""


def memory_of(text: str) -> OutputMemory:
    memory = OutputMemory()
    for line in text.splitlines():
        memory.add(line)
    return memory


def test_the_first_traceback_is_the_reason() -> None:
    failure = why_ended(memory_of(VLLM_CRASH), 1, words="before it was ready")
    assert failure.reason == "OutOfMemory" and failure.blame == "memory"
    assert str(failure) == (
        "the engine exited with code 1 before it was ready: "
        "ValueError: No available memory for the cache blocks."
    )
    assert failure.output.startswith("Traceback") and "EngineCore" not in failure.output
    assert "initialization failed" not in failure.output


@pytest.mark.parametrize(
    ("text", "code", "reason"),
    [
        ("bash: line 1: vllm: command not found", 127, "EngineMissing"),
        ("", 127, "EngineMissing"),
        ("ERROR: [Errno 98] error while attempting to bind on address ('127.0.0.1', 80): "
         "address already in use", 1, "PortInUse"),
        ("api_server.py: error: unrecognized arguments: --max-modellen=5", 2, "BadArguments"),
        ("OSError: /m does not appear to have a file named config.json.", 1, "ModelMissing"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", 1, "OutOfMemory"),
        ("terminate called after throwing an instance of 'std::bad_alloc'", -6, "OutOfMemory"),
        ("all is well", 0, "Crashed"),
        ("all is well", -9, "Crashed"),
    ],
)  # fmt: skip
def test_reasons_are_typed(text: str, code: int, reason: str) -> None:
    assert why_ended(memory_of(text), code).reason == reason


def test_the_kernel_s_record_tells_of_memory() -> None:
    failure = why_ended(memory_of("x"), -9, oom=True)
    assert failure.reason == "OutOfMemory" and "SIGKILL" in str(failure)
    assert why_ended(memory_of("x"), 1, oom=True).reason == "Crashed"


def test_memory_of_output_is_bounded() -> None:
    memory = memory_of("\n".join(["Traceback (most recent call last):", *["  more"] * 5000]))
    assert len(memory.text.splitlines()) <= 400 and len(memory.tail) <= 60


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FileNotFoundError("model folder x"), "ModelMissing"),
        (ValueError("engine_args.x: unknown"), "BadArguments"),
        (MemoryError(), "OutOfMemory"),
        (RuntimeError("CUDA out of memory"), "OutOfMemory"),
        (OSError(98, "Address already in use"), "PortInUse"),
        (OSError("x does not appear to have a file named config.json"), "ModelMissing"),
        (RuntimeError("x"), "Crashed"),
    ],
)
def test_errors_of_this_process_have_the_same_reasons(error: Exception, reason: str) -> None:
    assert why_raised(error, "trace").reason == reason


def test_a_start_is_told_by_phase_with_rate_and_end() -> None:
    now = [0.0]
    said: list[str] = []
    progress = StartProgress(said.append, lambda: now[0])
    progress.enter("environment")
    now[0] = 2.0
    gib = 2**30
    progress.bytes("weights", 0, 3 * gib)
    for second in range(1, 40):
        now[0] = 2.0 + second / 10
        progress.bytes("weights", int(second / 10 * 0.3 * gib), 3 * gib)
    progress.sign(Sign("weights", 0.5))
    now[0] = 7.0
    progress.sign(Sign("warmup"))
    now[0] = 9.0
    progress.sign(Sign("warmup", 0.25))
    progress.sign(Sign("warmup", 0.26))
    now[0] = 10.0
    progress.done()
    assert said == [
        "starting the engine",
        "loading weights",
        "loading weights 0.3/3.0 GiB, 322 MB/s, about 9 s left",
        "loading weights 0.6/3.0 GiB, 322 MB/s, about 8 s left",
        "loading weights 0.9/3.0 GiB, 322 MB/s, about 7 s left",
        "warming up",
        "warming up 25%, about 6 s left",
    ]
    assert progress.seconds == {"environment": 2.0, "weights": 5.0, "warmup": 3.0}


def test_the_next_start_knows_how_long_the_last_one_took(tmp_path: Path) -> None:
    record = record_of(tmp_path, "sha256:1", "vllm")
    assert record != record_of(tmp_path, "sha256:1", "builtin")
    assert last_start(record) == {}
    keep_start(record, {"environment": 20.0, "compile": 30.5})
    now = [100.0]
    said: list[str] = []
    progress = StartProgress(said.append, lambda: now[0], last_start(record))
    progress.enter("environment")
    now[0] = 121.0
    progress.enter("compile")
    now[0] = 190.0
    progress.enter("warmup")
    assert said == [
        "starting the engine, ready in about 50 s", "compiling, ready in about 30 s", "warming up",
    ]  # fmt: skip
    for garbage in ("", "[1]", '{"a": "x"}', "{" * 9000, '{"a": null}'):
        record.write_text(garbage)
        assert last_start(record) == {}
    record.write_text('{"a": NaN, "b": -1, "c": 2}')
    assert last_start(record) == {"c": 2.0}
