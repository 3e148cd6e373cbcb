"""The loop against transformers' own generate, and what enters and leaves the batch."""

from __future__ import annotations

import queue
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from quarterdeck_workers.engine.batch import CacheBatch
from quarterdeck_workers.engine.builtin import BuiltinEngine, EngineLimits
from quarterdeck_workers.engine.interface import (
    Engine,
    EngineBusy,
    EngineDraining,
    Sampling,
    SequenceRequest,
    TokenEvent,
    WeightReceiver,
)
from quarterdeck_workers.engine.loading import LoadedModel, load
from quarterdeck_workers.engine.metrics import EngineMetrics

PROMPTS = ["the", "def main() -> None:\n", "grüße aus Köln, 你好", "hello, world " * 4, "🚀", "a b"]
TIE = 1e-4


@pytest.fixture(scope="module")
def loaded(model_folder: Path) -> LoadedModel:
    return load(model_folder, device="cpu")


def engine_over(loaded: LoadedModel, **limits: int) -> BuiltinEngine:
    values = {"max_model_len": 128, "max_batch_size": 4, **limits}
    return BuiltinEngine(loaded, EngineLimits(**values), EngineMetrics())


@pytest.fixture
def engine(loaded: LoadedModel) -> Iterator[BuiltinEngine]:
    engine = engine_over(loaded)
    engine.start()
    yield engine
    engine.stop()


class Collector:
    """A sink that waits for the end of all sequences of a request."""

    def __init__(self) -> None:
        self.events: queue.Queue[TokenEvent] = queue.Queue()
        self.tokens: dict[int, list[int]] = {}
        self.text: dict[int, str] = {}
        self.reasons: dict[int, str] = {}

    def wait(self, sequences: int) -> Collector:
        while len(self.reasons) < sequences:
            event = self.events.get(timeout=60)
            self.text[event.index] = self.text.get(event.index, "") + event.text
            if event.token_id is not None:
                self.tokens.setdefault(event.index, []).append(event.token_id)
            if event.finish_reason:
                self.reasons[event.index] = event.finish_reason
        return self


def run(
    engine: BuiltinEngine, prompts: list[list[int]], sampling: Sampling | list[Sampling]
) -> Collector:
    collector = Collector()
    samplings = sampling if isinstance(sampling, list) else [sampling] * len(prompts)
    engine.submit(
        [
            SequenceRequest(index, tuple(prompt), samplings[index])
            for index, prompt in enumerate(prompts)
        ],
        collector.events.put,
    )
    return collector.wait(len(prompts))


def reference(loaded: LoadedModel, prompt: list[int], tokens: int) -> tuple[list[int], list[float]]:
    """transformers' greedy continuation and the distance of the two best logits at each step."""
    with torch.inference_mode():
        output = loaded.model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=tokens,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    margins = []
    for logits in output.logits:
        best = torch.topk(logits[0], 2).values
        margins.append(float(best[0] - best[1]))
    return output.sequences[0, len(prompt) :].tolist(), margins


def assert_equal_until_tie(mine: list[int], other: list[int], margins: list[float]) -> None:
    for step, margin in enumerate(margins):
        if margin < TIE:
            return
        assert mine[step] == other[step], f"step {step}, margin {margin}"
    assert mine == other


def test_it_keeps_its_interface(engine: BuiltinEngine) -> None:
    assert isinstance(engine, Engine)
    assert isinstance(engine, WeightReceiver)


@pytest.mark.parametrize("family", ["llama", "gpt"])
def test_batched_greedy_equals_generate_with_sequences_entering_and_leaving(
    tiny: ModuleType, model_folder: Path, tmp_path: Path, family: str
) -> None:
    # Six sequences of different lengths through a batch of four: rows join and leave midway.
    folder = model_folder if family == "llama" else tiny.make_gpt_folder(tmp_path / "gpt")
    loaded = load(folder, device="cpu")
    prompts = [loaded.encode(text) for text in PROMPTS]
    wanted = [24, 5, 17, 32, 9, 28]
    engine = engine_over(loaded)
    engine.start()
    try:
        samplings = [Sampling(max_tokens=count, temperature=0) for count in wanted]
        got = run(engine, prompts, samplings)
    finally:
        engine.stop()
    compared = 0
    for index, prompt in enumerate(prompts):
        other, margins = reference(loaded, prompt, wanted[index])
        assert_equal_until_tie(got.tokens[index], other, margins)
        compared += next((i for i, m in enumerate(margins) if m < TIE), len(margins))
    assert compared >= 60


def test_seeded_sampling_does_not_depend_on_the_neighbours(
    engine: BuiltinEngine, loaded: LoadedModel
) -> None:
    prompt = loaded.encode("the quick")
    sampling = Sampling(max_tokens=20, temperature=0.9, top_p=0.95, top_k=50, seed=7)
    alone = run(engine, [prompt], sampling).tokens[0]
    others = Sampling(max_tokens=12, temperature=1.5, seed=1)
    crowd = run(engine, [prompt, [5, 6], [9] * 30], [sampling, others, others]).tokens[0]
    assert alone == crowd
    assert run(engine, [prompt], Sampling(max_tokens=20, seed=8)).tokens[0] != alone


def test_stop_strings_end_the_text_before_them_over_token_borders(
    engine: BuiltinEngine, loaded: LoadedModel
) -> None:
    prompt = loaded.encode("the")
    free = run(engine, [prompt], Sampling(max_tokens=30, temperature=0, ignore_eos=True))
    text = free.text[0]
    stop = text[7:12]
    got = run(
        engine, [prompt], Sampling(max_tokens=30, temperature=0, stop=(stop,), ignore_eos=True)
    )
    assert got.text[0] == text[: text.index(stop)]
    assert got.reasons[0] == "stop"
    assert len(got.tokens[0]) < 30


def test_text_of_the_steps_is_the_text_of_the_tokens(
    engine: BuiltinEngine, loaded: LoadedModel
) -> None:
    sampling = Sampling(max_tokens=90, temperature=1.3, seed=3, ignore_eos=True)
    got = run(engine, [loaded.encode("你好"), loaded.encode("🚀")], sampling)
    for index in (0, 1):
        assert got.text[index] == loaded.decode(got.tokens[index])


def test_a_cancelled_request_leaves_and_the_others_go_on(
    engine: BuiltinEngine, loaded: LoadedModel
) -> None:
    long = Collector()
    ticket = engine.submit(
        [SequenceRequest(0, (5, 6, 7), Sampling(max_tokens=100, temperature=0, ignore_eos=True))],
        long.events.put,
    )
    first = long.events.get(timeout=60)
    assert first.token_id is not None
    ticket.cancel()
    prompt = loaded.encode("hello")
    other, margins = reference(loaded, prompt, 10)
    got = run(engine, [prompt], Sampling(max_tokens=10, temperature=0))
    assert_equal_until_tie(got.tokens[0], other, margins)
    assert long.wait(1).reasons == {0: "cancelled"}
    assert engine.stats().running == 0


def test_waiting_is_bounded_and_all_or_nothing(loaded: LoadedModel) -> None:
    engine = engine_over(loaded, max_waiting=3)
    engine.start()
    try:
        sampling = Sampling(max_tokens=2)
        requests = [SequenceRequest(index, (5,), sampling) for index in range(4)]
        with pytest.raises(EngineBusy, match="waiting queue of 3") as refusal:
            engine.submit(requests, Collector().events.put)
        assert refusal.value.retry_after
        assert engine.stats().waiting == 0
    finally:
        engine.stop()


def test_the_cache_bound_makes_sequences_take_turns(loaded: LoadedModel) -> None:
    engine = engine_over(loaded, max_cache_tokens=40)
    most = 0

    class Watching(Collector):
        def put(self, event: TokenEvent) -> None:
            nonlocal most
            most = max(most, len(engine._running))
            self.events.put(event)

    engine.start()
    try:
        collector = Watching()
        sampling = Sampling(max_tokens=16, temperature=0, ignore_eos=True)
        engine.submit([SequenceRequest(i, (5, 6, 7, 8), sampling) for i in range(4)], collector.put)
        collector.wait(4)
        assert [len(collector.tokens[i]) for i in range(4)] == [16] * 4
        assert most == 2
    finally:
        engine.stop()


def test_draining_finishes_what_runs_and_refuses_what_comes(loaded: LoadedModel) -> None:
    engine = engine_over(loaded)
    engine.start()
    try:
        running = Collector()
        sampling = Sampling(max_tokens=40, temperature=0, ignore_eos=True)
        engine.submit([SequenceRequest(0, (5, 6), sampling)], running.events.put)
        engine.drain()
        with pytest.raises(EngineDraining):
            engine.submit([SequenceRequest(0, (5,), sampling)], running.events.put)
        assert len(running.wait(1).tokens[0]) == 40
        assert running.reasons == {0: "length"}
    finally:
        engine.stop()
    assert not engine.alive()


def test_a_model_that_fails_ends_its_sequences_with_the_reason(model_folder: Path) -> None:
    loaded = load(model_folder, device="cpu")
    engine = engine_over(loaded)
    engine.start()
    weight = loaded.model.get_input_embeddings().weight
    kept = weight.data.clone()
    try:
        weight.data[9] = float("nan")
        sampling = Sampling(max_tokens=4, temperature=0)
        collector = Collector()
        engine.submit([SequenceRequest(0, (5, 9), sampling)], collector.events.put)
        event = collector.events.get(timeout=60)
        assert event.finish_reason == "error"
        assert "not finite" in event.error
        weight.data.copy_(kept)
        assert run(engine, [[5, 9]], sampling).reasons[0] in ("stop", "length")
    finally:
        engine.stop()


def test_update_weights_changes_the_answers_and_refuses_another_shape(
    tiny: ModuleType, model_folder: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    shutil.copytree(model_folder, own)
    other = tiny.make_model_folder(tmp_path / "other", seed=1)
    deeper = tiny.make_model_folder(tmp_path / "deeper", layers=3)
    engine = engine_over(load(own, device="cpu"))
    engine.start()
    try:
        sampling = Sampling(max_tokens=12, temperature=0, ignore_eos=True)
        before = run(engine, [[5, 6, 7]], sampling).tokens[0]
        with pytest.raises(ValueError, match="unknown"):
            engine.update_weights(deeper)
        assert run(engine, [[5, 6, 7]], sampling).tokens[0] == before
        engine.update_weights(other)
        after = run(engine, [[5, 6, 7]], sampling).tokens[0]
        fresh, margins = reference(load(other, device="cpu"), [5, 6, 7], 12)
        assert after != before
        assert_equal_until_tie(after[: len(fresh)], fresh, margins)
    finally:
        engine.stop()


@pytest.mark.parametrize("piece", [1, 7, 512])
def test_a_prompt_in_pieces_has_the_logits_of_the_whole(loaded: LoadedModel, piece: int) -> None:
    prompt = tuple(loaded.encode("the quick brown fox jumps over the lazy dog"))
    heard: list[int] = []
    with torch.inference_mode():
        whole = loaded.model(input_ids=torch.tensor([prompt])).logits[0, -1]
        batch = CacheBatch(loaded.model, piece)
        batch.join((1, 2, 3))
        logits = batch.join(prompt, heard.append)
        then = batch.step([5, 6])[1]
        after = loaded.model(input_ids=torch.tensor([[*prompt, 6]])).logits[0, -1]
    assert torch.allclose(logits, whole, atol=1e-4) and torch.allclose(then, after, atol=1e-4)
    assert sum(heard) == len(prompt) and max(heard) <= piece
