"""Whether a benchmark's figure keeps to its target."""

from __future__ import annotations

import pytest

from benchmarks.targets import Target, report, row

LESS, MORE = Target("ratio", 1.0, 0.7), Target("times as fast", 3.2, 3.7, "{:.1f}")


@pytest.mark.parametrize(
    ("target", "value", "met"),
    [
        (LESS, 0.7, "aim"),
        (LESS, 0.71, "floor"),
        (LESS, 1.0, "floor"),
        (LESS, 1.01, "missed"),
        (MORE, 3.8, "aim"),
        (MORE, 3.2, "floor"),
        (MORE, 3.1, "missed"),
    ],
)
def test_a_target_is_met_on_the_right_side_of_its_bounds(target: Target, value: float, met: str) -> None:
    assert row(target, [value])[-1] == met


def test_the_median_of_the_pairs_decides_and_their_spread_is_shown() -> None:
    assert row(LESS, [0.5, 0.9, 9.0], "the wheel's") == [
        "ratio (the wheel's)",
        "0.90 (0.50 to 9.00)",
        "1.00",
        "0.70",
        "floor",
    ]
    assert report([row(MORE, [3.5])]).splitlines()[-1] == "| times as fast | 3.5 | 3.2 | 3.7 | floor |"
