"""How numbers and names are written for people."""

import pytest

from recsys.report import blocks
from recsys.report.blocks import Cell


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0.0 %"), (0.0004, "< 0.1 %"), (0.0005, "0.1 %"), (0.123, "12.3 %"), (1.0, "100.0 %")],
)
def test_share_that_is_not_0_never_looks_like_0(share: float, text: str) -> None:
    assert blocks.percent(share) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.21, "4.2 s"), (59.94, "59.9 s"), (95, "1 min 35 s"), (3599.4, "59 min 59 s"), (7320, "2 h 2 min")],
)
def test_durations_in_the_unit_that_a_person_would_say(seconds: float, text: str) -> None:
    assert blocks.duration(seconds) == text


def test_numbers() -> None:
    assert (blocks.count(1234567), blocks.figure(0.12345), blocks.signed(0.01)) == ("1,234,567", "0.123", "+0.010")
    assert blocks.signed(-0.5) == "−0.500"  # a minus, not a hyphen
    assert [blocks.plural(n, "session") for n in (0, 1, 2000)] == ["0 sessions", "1 session", "2,000 sessions"]
    assert (blocks.between([0.8, 0.9]), blocks.between(None)) == ("0.800–0.900", "")
    assert blocks.counted(1200) == Cell("1,200", 1200) and blocks.shared(0.5) == Cell("50.0 %", 0.5)


def test_names_of_systems_and_metrics() -> None:
    assert [blocks.system_name(k) for k in ("markov2", "own_ranker")] == ["Markov-2", "Own ranker"]
    assert [blocks.system_style(k) for k in ("markov2", "own_ranker")] == ["s-markov2", "s-other"]
    assert [blocks.metric_name(k) for k in ("recall@10", "mrr", "hit_rate@5")] == ["Recall@10", "MRR", "Hit rate@5"]


def test_settings_are_named_through_their_sections() -> None:
    rows = blocks.settings({"seed": 0, "etl": {"min_length": None, "by": {"name": ["a", True]}}})
    assert [[cell.text for cell in row] for row in rows] == [
        ["seed", "0"],
        ["etl: min length", "none"],
        ["etl: by: name", "a, yes"],
    ]
