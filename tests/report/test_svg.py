"""Charts: positions on the page against the numbers that they stand for."""

import doctest
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from recsys.report import blocks, quality, svg
from recsys.report.svg import Bars, Line, bar_chart, funnel_chart, line_chart, thin, ticks

FINITE = st.floats(-1e6, 1e6, allow_nan=False)


@pytest.mark.parametrize("module", [blocks, quality, svg])
def test_examples_in_docstrings(module) -> None:
    result = doctest.testmod(module)
    assert result.failed == 0
    assert result.attempted > 0


@given(low=FINITE, width=st.floats(1e-3, 1e6))
def test_ticks_enclose_the_range_in_few_even_steps(low: float, width: float) -> None:
    found = ticks(low, low + width)
    step = found[1] - found[0]
    slack = 1e-6 * max(abs(low), width, 1)
    assert found[0] <= low + slack
    assert found[-1] >= low + width - slack
    assert 2 <= len(found) <= 13
    assert all(b - a == pytest.approx(step, rel=1e-6, abs=slack) for a, b in pairwise(found))


def numbers(text: str, pattern: str) -> list[float]:
    return [float(found) for found in re.findall(pattern, text)]


def test_bars_are_as_high_as_their_values() -> None:
    bars = [
        Bars("Model", "s-model", [0.2, 0.8, None], [(0.1, 0.3), None, None]),
        Bars("Other", "s-other", [0.4, 0.0, 1.0]),
    ]
    text = bar_chart("chart", [("a", ""), ("b", ""), ("c", "")], bars)
    heights = numbers(text, r'<rect [^>]*height="([\d.]+)"')
    assert heights == pytest.approx([h * heights[-1] for h in (0.2, 0.4, 0.8, 0.0, 1.0)], abs=0.11)
    assert text.count('class="whisker"') == 1
    top, bottom = numbers(text, r'whisker" d="M[\d.]+ [\d.]+V([\d.]+)')[0], numbers(text, r'd="M[\d.]+ ([\d.]+)V')[0]
    assert bottom - top == pytest.approx(0.2 * heights[-1], abs=0.11)
    assert "Model, a: 0.200 (95 % interval 0.100 to 0.300)" in text


def test_line_points_are_affine_in_the_data() -> None:
    data = [(0.0, 1.0), (5.0, 2.0), (10.0, 4.0)]
    text = line_chart("chart", [Line("Loss", "s-model", data, dots=True)], "step", mark=(5.0, "kept"))
    xs, ys = numbers(text, r'cx="([\d.]+)"'), numbers(text, r'cy="([\d.]+)"')
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2)
    assert (ys[0] - ys[1]) * 2 == pytest.approx(ys[1] - ys[2], abs=0.3)
    assert f'class="mark" d="M{xs[1]:.1f}' in text


def test_funnel_bars_add_up() -> None:
    text = funnel_chart("funnel", [("noise", 1000, 400), ("short", 400, 400)])
    kept, gone = numbers(text, r'class="bar[^>]*width="([\d.]+)"'), numbers(text, r'class="gone"[^>]*width="([\d.]+)"')
    assert kept[0] / (kept[0] + gone[0]) == pytest.approx(0.4, abs=1e-3)
    assert kept[1] == kept[0]
    assert gone[1] == 0
    assert "noise: 1,000 in, 400 out" in text


def test_names_of_stages_stand_whole_and_have_room() -> None:
    long, longest = "repeats after alignment", "x" * 50
    text = funnel_chart("funnel", [("noise", 9, 8), (long, 8, 8)])
    assert f">{long}</text>" in text and "…" not in text
    x = numbers(text, r'class="end" x="([\d.]+)"')
    assert x[0] == x[1] >= 23 * 6 and numbers(text, r'class="bar[^>]*x="([\d.]+)"') == [x[0] + 8] * 2
    cut = funnel_chart("funnel", [(longest, 9, 8)])
    assert "…" in cut.split("</title>")[1] and longest in cut.split("</title>")[0]
    ends = numbers(cut, r'class="gone" x="([\d.]+)"')[0] + numbers(cut, r'class="gone"[^>]*width="([\d.]+)"')[0]
    assert ends == pytest.approx(svg.WIDTH - svg.RIGHT, abs=0.2), "inside the picture"


def test_thinning_keeps_the_mean() -> None:
    points = [(float(x), float(x % 7)) for x in range(1000)]
    found = thin(points, most=100)
    assert len(found) == 100
    assert sum(y for _, y in found) / 100 == pytest.approx(sum(y for _, y in points) / 1000)
    assert thin(points, most=1000) == points


def test_nothing_to_draw_is_no_chart() -> None:
    assert line_chart("chart", [Line("Loss", "s-model", [])], "step") == Markup("")
    assert bar_chart("chart", [("a", "")], [Bars("Model", "s-model", [None])]) == Markup("")
    assert funnel_chart("chart", []) == Markup("")


def test_texts_in_charts_are_escaped() -> None:
    evil = '<b onclick="x">'
    texts = [
        line_chart(evil, [Line(evil, "s-model", [(0.0, 1.0)], dots=True)], evil, mark=(0.0, evil)),
        bar_chart(evil, [(evil, evil)], [Bars(evil, "s-model", [0.5])]),
        funnel_chart(evil, [(evil, 2, 1)]),
        svg.legend([(evil, "s-model")]),
    ]
    assert all("<b" not in text and 'onclick="' not in text for text in texts)
