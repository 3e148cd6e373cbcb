"""Durations, memory, counts and shares as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.specs.units import parse_count, parse_duration, parse_memory, parse_share


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("800ms", 0.8),
        ("30s", 30.0),
        ("5m", 300.0),
        ("12h", 43_200.0),
        ("7d", 604_800.0),
        ("1.5h", 5_400.0),
        (90, 90.0),
        (0.5, 0.5),
    ],
)
def test_durations(text: object, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("64GiB", 64 * 2**30),
        ("512MiB", 512 * 2**20),
        ("80GB", 80 * 10**9),
        ("1 TiB", 2**40),
        (1024, 1024),
    ],
)
def test_memory(text: object, count: int) -> None:
    assert parse_memory(text) == count


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("100B", 100 * 10**9),
        ("1.4T", 1_400_000_000_000),
        ("32k", 32_000),
        ("32K", 32_000),
        ("4M", 4_000_000),
        (512, 512),
        (1e6, 1_000_000),
    ],
)
def test_counts(text: object, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize(
    ("text", "share"), [("99.9%", 0.999), ("2%", 0.02), (0.5, 0.5), (1, 1.0), ("0.25", 0.25)]
)
def test_shares(text: object, share: float) -> None:
    assert parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize("wrong", ["", "5", "5 minutes", "-3s", "s", None, True, [], "1h30m"])
def test_what_is_no_duration_says_how_to_write_one(wrong: object) -> None:
    with pytest.raises(ValueError, match="write 800ms, 30s, 5m"):
        parse_duration(wrong)


@pytest.mark.parametrize("wrong", ["64", "64G", "64gib", 1.5, None, True])
def test_what_is_no_memory_says_how_to_write_it(wrong: object) -> None:
    with pytest.raises(ValueError, match="write 64GiB"):
        parse_memory(wrong)


@pytest.mark.parametrize("wrong", ["1.5", "many", 3e-4, "0.0001k", None, True])
def test_what_is_no_count_says_how_to_write_one(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"write 512, 32k"):
        parse_count(wrong)


@pytest.mark.parametrize("wrong", ["101%", 1.5, -0.1, "2 percent", None, True])
def test_what_is_no_share_says_how_to_write_one(wrong: object) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        parse_share(wrong)


@given(st.integers(0, 10**9), st.sampled_from([("k", 10**3), ("M", 10**6), ("B", 10**9)]))
def test_counts_keep_every_digit(number: int, unit: tuple[str, int]) -> None:
    letter, factor = unit
    assert parse_count(f"{number}{letter}") == number * factor


@given(st.integers(0, 10**6), st.sampled_from([("KiB", 2**10), ("MiB", 2**20), ("GiB", 2**30)]))
def test_memory_keeps_every_byte(number: int, unit: tuple[str, int]) -> None:
    name, factor = unit
    assert parse_memory(f"{number}{name}") == number * factor


@given(st.text(max_size=20))
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (parse_duration, parse_memory, parse_count, parse_share):
        try:
            assert parse(text) >= 0
        except ValueError as error:
            assert repr(text) in str(error)


@pytest.mark.parametrize("text", ["1e999s", "1e300d", 1e300, float("inf"), 10**400, "36501d"])
def test_durations_that_no_date_can_take_are_refused(text: object) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


def test_no_duration_is_refused_as_nan() -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(float("nan"))


@pytest.mark.parametrize("text", ["1e999", "1e308TiB", "1e31B"])
def test_amounts_that_nobody_can_mean_are_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match="is not a"):
        parse_memory(text)
    with pytest.raises(ValueError, match="is not a"):
        parse_count(text)
