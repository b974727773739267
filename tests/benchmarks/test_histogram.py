"""The histogram, and the durations of a moment, against exact percentiles."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.histogram import Histogram, Sample

PRECISION = 1 / 1_024


def exact(values: list[int], percent: float) -> int:
    """Give the least value that a percentage of all does not exceed."""
    rank = max(math.ceil(round(len(values) * percent / 100, 6)), 1)
    return sorted(values)[rank - 1]


def of(nanoseconds: list[int]) -> Histogram:
    # Half a nanosecond more, because seconds are floats and are cut to whole nanoseconds.
    return Histogram((value + 0.5) / 1e9 for value in nanoseconds)


@pytest.mark.parametrize("percent", [0, 1, 50, 90, 99, 99.9, 99.99, 100])
def test_percentiles_are_right_to_one_part_in_a_thousand(percent: float) -> None:
    dice = random.Random(7)
    values = [int(10 ** dice.uniform(2, 11)) for _ in range(20_000)]

    found = of(values).percentile(percent) * 1e9
    wanted = exact(values, percent)

    assert wanted - 1 <= found <= wanted * (1 + PRECISION) + 1


@given(
    st.lists(st.integers(0, 3_600 * 10**9), min_size=1, max_size=50),
    st.floats(0, 100),
)
def test_a_percentile_is_never_told_too_low(values: list[int], percent: float) -> None:
    found = of(values).percentile(percent) * 1e9
    wanted = exact(values, percent)

    assert wanted - 1 <= found <= wanted * (1 + PRECISION) + 1


def test_short_durations_are_exact_to_the_nanosecond() -> None:
    histogram = of(list(range(1, 1_001)))

    assert round(histogram.percentile(50) * 1e9) == 500
    assert round(histogram.percentile(99.9) * 1e9) == 999


def test_the_longest_is_exact() -> None:
    histogram = Histogram([0.001, 1.2345678])

    assert histogram.max == 1.2345678
    assert histogram.percentile(100) == 1.2345678


def test_a_weight_counts_a_duration_so_many_times() -> None:
    weighed, repeated = Histogram(), Histogram([0.001] * 998 + [0.5] * 2)
    weighed.record(0.001, weight=998)
    weighed.record(0.5, weight=2)

    assert weighed.count == repeated.count == 1_000
    assert weighed.milliseconds() == repeated.milliseconds()
    assert weighed.percentile(99.9) == 0.5


def test_what_takes_longer_than_an_hour_is_an_hour_and_less_than_nothing_is_nothing() -> None:
    assert Histogram([86_400.0]).max == 3_600.0
    assert Histogram([-1.0]).percentile(100) == 0.0


def test_nothing_counted_has_no_percentile() -> None:
    with pytest.raises(ValueError, match="nothing was counted"):
        Histogram().percentile(50)


def test_two_histograms_add_up() -> None:
    both, one, other = (
        Histogram([0.001, 0.5, 7.0, 0.002, 0.5]),
        Histogram([0.001, 0.5, 7.0]),
        Histogram([0.002, 0.5]),
    )

    one.add(other)

    assert [one.ms(p) for p in (20, 40, 60, 80, 100)] == [both.ms(p) for p in (20, 40, 60, 80, 100)]
    assert (one.count, one.max) == (5, 7.0)
    assert Histogram().ms(99) == 0.0


def test_figures_are_those_of_the_histogram_that_recorded_the_benchmarks_before() -> None:
    dice = random.Random(2011)
    histogram = Histogram(dice.lognormvariate(-7, 1.2) for _ in range(1_600))

    # 99.9 % of 1,600 are 1,598.4, so that it is the 1,599th, though the 1,598th is nearer.
    found = {percent: histogram.ms(percent) for percent in (0, 1, 50, 90, 99, 99.9, 100)}
    assert found == pytest.approx(
        {
            0: 0.020463,
            1: 0.055807,
            50: 0.857087,
            90: 4.118527,
            99: 12.492799,
            99.9: 30.490623,
            100: 38.292659,
        }
    )


def test_the_durations_of_a_moment_have_exact_percentiles() -> None:
    one, other = Sample(), Sample()
    for n in range(1, 1_001):
        (one if n % 2 else other).record(n / 1_024)

    both = Sample([one, other])
    assert both.count == 1_000
    found = both.ms(0, 50, 99.9, 100)
    assert found == [n * 1_000 / 1_024 for n in (1, 500, 999, 1_000)]
    assert Sample().ms(50, 99) == [0.0, 0.0]
