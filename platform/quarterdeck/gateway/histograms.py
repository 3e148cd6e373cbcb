"""Histograms and counters for the hot path.

prometheus_client locks and walks the buckets for each observation; a gateway has one thread and
makes five for each request. These are the same histograms and counters to who scrapes them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry


def _go(bound: float) -> str:
    """A bound as Prometheus writes numbers."""
    return repr(float(bound))


class Series:
    """The observations of one set of labels."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value


class Histogram(Collector):
    """Series by label values. `bounds` are the upper bounds of the buckets, each included."""

    def __init__(
        self, name: str, words: str, labels: Sequence[str], bounds: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:  # fmt: skip
        self._name, self._words, self._labels = name, words, tuple(labels)
        self._bounds = tuple(bounds)
        self._series: dict[tuple[str, ...], Series] = {}
        registry.register(self)

    def labels(self, *values: str) -> Series:
        """The series of these values, made when there is none."""
        series = self._series.get(values)
        if series is None:
            series = self._series[values] = Series(self._bounds)
        return series

    def remove(self, *values: str) -> None:
        """End a series."""
        self._series.pop(values, None)

    def collect(self) -> Iterator[Metric]:
        """For the registry."""
        family = HistogramMetricFamily(self._name, self._words, labels=self._labels)
        for values, series in list(self._series.items()):
            buckets, below = [], 0
            for bound, count in zip(self._bounds, series.counts, strict=False):
                below += count
                buckets.append((_go(bound), float(below)))
            buckets.append(("+Inf", float(below + series.counts[-1])))
            family.add_metric(list(values), buckets, series.total)
        yield family

    def describe(self) -> Iterator[Metric]:
        """For the registry's check of names."""
        yield HistogramMetricFamily(self._name, self._words, labels=self._labels)


class Count:
    """One counter's number."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


class Counts(Collector):
    """Counters by label values; `name` is without its `_total`."""

    def __init__(
        self, name: str, words: str, labels: Sequence[str], registry: CollectorRegistry
    ) -> None:
        self._name, self._words, self._labels = name, words, tuple(labels)
        self._counts: dict[tuple[str, ...], Count] = {}
        registry.register(self)

    def labels(self, *values: str) -> Count:
        """The counter of these values, made when there is none."""
        count = self._counts.get(values)
        if count is None:
            count = self._counts[values] = Count()
        return count

    def remove(self, *values: str) -> None:
        """End a counter."""
        self._counts.pop(values, None)

    def collect(self) -> Iterator[Metric]:
        """For the registry."""
        family = CounterMetricFamily(self._name, self._words, labels=self._labels)
        for values, count in list(self._counts.items()):
            family.add_metric(list(values), count.value)
        yield family

    def describe(self) -> Iterator[Metric]:
        """For the registry's check of names."""
        yield CounterMetricFamily(self._name, self._words, labels=self._labels)
