"""Line and bar charts as inline SVG. Colours are CSS classes, so that a chart follows light, dark and print."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, floor, log10

from markupsafe import Markup

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 54, 12, 22, 46
_FUNNEL_ROW, _FUNNEL_LEFT = 30, 150
_NAME, _LETTER = 34, 6.6  # characters of a stage's name at most; width of one, in a font of 12
_MOST_POINTS = 300  # of a line; more are averaged in equal runs


@dataclass(frozen=True)
class Line:
    """One curve: `points` as (x, y), in order of x; `style` is a CSS class."""

    name: str
    style: str
    points: list[tuple[float, float]]
    dots: bool = False


@dataclass(frozen=True)
class Bars:
    """One system's bars, one value a group (None: no bar); `intervals` as (low, high) or None."""

    name: str
    style: str
    values: list[float | None]
    intervals: list[tuple[float, float] | None] = field(default_factory=list)

    def interval(self, group: int) -> tuple[float, float] | None:
        """The interval of one group's bar."""
        return self.intervals[group] if group < len(self.intervals) else None


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from at most `low` to at least `high`, about `about` steps of 1, 2 or 5 times a power of ten.

    >>> ticks(0.0, 0.83)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    if high <= low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / about
    power = 10.0 ** floor(log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    digits = max(0, -floor(log10(step)))
    return [round(i * step, digits) for i in range(first, last + 1)]


def short(number: float) -> str:
    """A number for an axis: thousands as k, millions as M, no needless zeros.

    >>> [short(x) for x in (0.25, 3.0, 1500, 2e6)]
    ['0.25', '3', '1.5k', '2M']
    """
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{sign}"
    return f"{number:.4g}"


def legend(entries: Sequence[tuple[str, str]]) -> Markup:
    """Names beside their colours; `entries` are (name, style)."""
    keys = (Markup('<li><span class="key {}"></span>{}</li>').format(style, name) for name, style in entries)
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(keys))


def line_chart(title: str, lines: Sequence[Line], x_label: str, mark: tuple[float, str] | None = None) -> Markup:
    """Curves over a common x axis; `mark` is an x with a label, drawn as a dashed upright."""
    lines = [Line(each.name, each.style, thin(each.points), each.dots) for each in lines if each.points]
    if not lines:
        return Markup("")
    xs = [x for each in lines for x, _ in each.points]
    ys = [y for each in lines for _, y in each.points]
    x_ticks, y_ticks = ticks(min(xs), max(xs), about=6), ticks(min(ys), max(ys))
    x_low, x_high = min(xs), max(max(xs), min(xs) + 1e-9)

    def at_x(x: float) -> float:
        return LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def at_y(y: float) -> float:
        return _scale(y, y_ticks)

    parts = [_y_axis(y_ticks)]
    for tick in x_ticks:
        if x_low <= tick <= x_high:
            parts.append(_text(at_x(tick), HEIGHT - BOTTOM + 18, short(tick)))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_label))
    if mark is not None and x_low <= mark[0] <= x_high:
        parts.append(_mark(at_x(mark[0]), mark[1]))
    for each in lines:
        path = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in each.points)
        parts.append(Markup('<polyline class="line {}" points="{}"/>').format(each.style, path))
        for x, y in each.points if each.dots else []:
            tip = f"{each.name}, {x_label} {x:,g}: {y:.4g}"
            dot = '<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="3.5"><title>{}</title></circle>'
            parts.append(Markup(dot).format(each.style, at_x(x), at_y(y), tip))
    return _svg(title, parts)


def bar_chart(title: str, groups: Sequence[tuple[str, str]], bars: Sequence[Bars]) -> Markup:
    """Bars side by side in groups, from 0, with whiskers; `groups` are (label, second line)."""
    tops = [v for each in bars for v in each.values if v is not None]
    tops += [high for each in bars for interval in each.intervals if interval for high in interval]
    if not tops:
        return Markup("")
    y_ticks = ticks(0.0, max(*tops, 1e-6))
    room = (WIDTH - LEFT - RIGHT) / len(groups)
    wide = min(22.0, room * 0.84 / len(bars))
    parts = [_y_axis(y_ticks)]
    for at, (label, below) in enumerate(groups):
        centre = LEFT + room * (at + 0.5)
        parts += [_text(centre, HEIGHT - BOTTOM + 15, label), _text(centre, HEIGHT - BOTTOM + 28, below, "faint")]
        for place, each in enumerate(bars):
            value = each.values[at]
            if value is not None:
                x = centre + (place - len(bars) / 2) * wide
                parts.append(_bar(x, wide, value, each, at, label, y_ticks))
    return _svg(title, parts, HEIGHT - BOTTOM + (34 if any(below for _, below in groups) else 20))


def funnel_chart(title: str, stages: Sequence[tuple[str, int, int]]) -> Markup:
    """One bar a stage, as long as what it let through, with what left at its end; `stages` are (name, in, out)."""
    largest = max((entered for _, entered, _ in stages), default=0)
    if not largest:
        return Markup("")
    names = [_cut(name) for name, _, _ in stages]
    start = max(_FUNNEL_LEFT, round(max(map(len, names)) * _LETTER) + 8)
    room = WIDTH - start - RIGHT
    parts = []
    for at, (name, entered, left) in enumerate(stages):
        y, kept, gone = at * _FUNNEL_ROW + 6, left / largest * room, (entered - left) / largest * room
        label = f"{left:,}" if left == entered else f"{left:,}  (−{entered - left:,})"
        x, style = _label_place(start, kept, gone, room)
        shape = (
            '<g><title>{}: {:,} in, {:,} out</title><text class="end" x="{}" y="{}">{}</text>'
            '<rect class="bar s-model" x="{}" y="{}" width="{:.1f}" height="20"/>'
            '<rect class="gone" x="{:.1f}" y="{}" width="{:.1f}" height="20"/>'
            '<text class="{}" x="{:.1f}" y="{}">{}</text></g>'
        )
        texts = (name, entered, left, start - 8, y + 14, names[at], start, y, kept)
        parts.append(Markup(shape).format(*texts, start + kept, y, gone, style, x, y + 14, label))
    return _svg(title, parts, len(stages) * _FUNNEL_ROW + 8)


def _label_place(start: int, kept: float, gone: float, room: float) -> tuple[float, str]:
    """x and style of a bar's label: beside the whole bar, else on its dark part, else on its light part."""
    if kept + gone < 0.65 * room:
        return start + kept + gone + 6, "start"
    return (start + 8, "start inside") if kept > 0.4 * room else (start + kept + 6, "start")


def _cut(text: str, most: int = _NAME) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _bar(x: float, wide: float, value: float, bars: Bars, group: int, label: str, y_ticks: list[float]) -> Markup:
    top, zero = _scale(value, y_ticks), _scale(0.0, y_ticks)
    interval = bars.interval(group)
    tip = f"{bars.name}, {label}: {value:.3f}"
    if interval:
        tip += f" (95 % interval {interval[0]:.3f} to {interval[1]:.3f})"
    shape = '<rect class="bar {}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>'
    found = Markup(shape).format(bars.style, x + 0.5, top, wide - 1, max(0.0, zero - top))
    if interval:
        low, high, centre = _scale(interval[0], y_ticks), _scale(interval[1], y_ticks), x + wide / 2
        reach = min(4.0, wide / 3)
        strokes = (
            f"M{centre:.1f} {low:.1f}V{high:.1f}M{centre - reach:.1f} {low:.1f}h{2 * reach:.1f}"
            f"M{centre - reach:.1f} {high:.1f}h{2 * reach:.1f}"
        )
        found += Markup('<path class="whisker" d="{}"/>').format(strokes)
    return Markup("<g><title>{}</title>{}</g>").format(tip, found)


def thin(points: Sequence[tuple[float, float]], most: int = _MOST_POINTS) -> list[tuple[float, float]]:
    """At most `most` points: means of equally long runs where there are more."""
    if len(points) <= most:
        return list(points)
    run = ceil(len(points) / most)
    runs = [points[i : i + run] for i in range(0, len(points), run)]
    return [(sum(x for x, _ in r) / len(r), sum(y for _, y in r) / len(r)) for r in runs]


def _scale(y: float, y_ticks: list[float]) -> float:
    share = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _y_axis(y_ticks: list[float]) -> Markup:
    parts = []
    for tick in y_ticks:
        y = _scale(tick, y_ticks)
        parts.append(Markup('<path class="grid" d="M{} {:.1f}H{}"/>').format(LEFT, y, WIDTH - RIGHT))
        parts.append(Markup('<text class="end" x="{}" y="{:.1f}">{}</text>').format(LEFT - 7, y + 4, short(tick)))
    return Markup("").join(parts)


def _mark(x: float, label: str) -> Markup:
    # On the side with more room, so that the label stays inside the picture.
    left = x > (LEFT + WIDTH - RIGHT) / 2
    style, shift = ("end", -5) if left else ("start", 5)
    return Markup('<path class="mark" d="M{:.1f} {}V{}"/><text class="{} faint" x="{:.1f}" y="{}">{}</text>').format(
        x, TOP - 12, HEIGHT - BOTTOM, style, x + shift, TOP - 9, label
    )


def _text(x: float, y: float, text: str, style: str = "") -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(style, x, y, text)


def _svg(title: str, parts: Sequence[Markup], height: int = HEIGHT) -> Markup:
    head = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDTH, height, title)
    return head + Markup("").join(parts) + Markup("</svg>")
