"""The prefix cache of the engines that the routing benchmark simulates."""

from __future__ import annotations

from benchmarks.simulated_engine import BLOCK, BlockCache


def text(name: str, blocks: int) -> str:
    return (f"{name} " * BLOCK * blocks)[: BLOCK * blocks]


def test_whole_blocks_of_the_beginning_are_cached() -> None:
    cache = BlockCache(10)
    cache.add(text("a", 3) + "rest")
    assert cache.cached(text("a", 3) + "other") == 3 * BLOCK
    assert cache.cached(text("a", 2) + text("b", 1)) == 2 * BLOCK
    assert cache.cached("x" + text("a", 3)) == 0


def test_what_was_used_longest_ago_goes_from_its_end() -> None:
    cache = BlockCache(4)
    for name in ("a", "b"):
        cache.add(text(name, 2))
    cache.add(text("a", 2))
    cache.add(text("c", 1))
    assert [cache.cached(text(name, 2)) for name in ("a", "b", "c")] == [2 * BLOCK, BLOCK, BLOCK]
    assert len(cache) == 4
