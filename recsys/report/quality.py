"""Sections about the figures: headline, Recall@k beside baselines, quality by frequency and length, confusions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from recsys.metrics import bootstrap_interval, bootstrap_intervals, position_metrics
from recsys.report.blocks import (
    Card,
    Cell,
    Figure,
    Section,
    Table,
    between,
    count,
    counted,
    figure,
    metric_name,
    percent,
    plural,
    settings,
    shared,
    signed,
    system_name,
    system_style,
)
from recsys.report.contents import MODEL, RANK, Contents, Items
from recsys.report.svg import Bars, bar_chart, legend, short

Interval = tuple[float, float]
NOT_EVALUATED = "Nothing is measured yet: metrics.json is missing. Run: recsys evaluate --run {}"
NO_PREDICTIONS = "predictions.parquet is missing, so single positions are not known. Run: recsys evaluate --run {}"
_FREQUENCIES = (0, 1, 10, 100, 1_000, 10_000, 100_000)
_LENGTHS = (1, 2, 5, 10, 20, 50, 110, 250)
_CONFUSIONS = 15
_TOLERANCE = 1e-6
_SCORE = "recall@10"


def ks_of(metrics: Mapping[str, Any], name: str = "recall") -> list[int]:
    """The k of every ``<name>@k`` in one system's figures, ascending."""
    found = (key.partition("@") for key in metrics)
    return sorted(int(k) for head, _, k in found if head == name and k.isdigit())


class Positions:
    """Ranks of every scored position by system, with what is needed for intervals.

    ``ranks[system] [P]`` (0: unknown target), ``groups [P]``.
    """

    def __init__(self, table: pl.DataFrame, samples: int, seed: int) -> None:
        self.table = table
        self.groups = table["group"].to_numpy()
        names = [c.removeprefix(RANK) for c in table.columns if c.startswith(RANK)]
        self.ranks = {n: table[RANK + n].to_numpy() for n in sorted(names, key=lambda n: n != MODEL)}
        self._samples, self._seed = samples, seed

    def where(self, mask: np.ndarray[Any, np.dtype[np.bool_]]) -> "Positions":
        """The positions of `mask` alone."""
        return Positions(self.table.filter(pl.Series(mask)), self._samples, self._seed)

    def values(self, metric: str) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
        """``[P]`` values of a metric such as ``recall@10``, by system."""
        k = metric.partition("@")[2]
        return {n: position_metrics(r, ks=(int(k) if k else 1,))[metric] for n, r in self.ranks.items()}

    def intervals(self, metric: str) -> dict[str, Interval]:
        """Bootstrap 95 % intervals over groups, by system; empty where the run asks for none."""
        if not self._samples or len(np.unique(self.groups)) < 2:
            return {}
        return bootstrap_intervals(self.values(metric), self.groups, self._samples, self._seed)

    def gain(self, metric: str, other: str) -> tuple[float, Interval | None]:
        """Model less `other`, paired by position, with its interval."""
        values = self.values(metric)
        difference = values[MODEL] - values[other]
        if not self._samples or len(np.unique(self.groups)) < 2:
            return float(difference.mean()), None
        return float(difference.mean()), bootstrap_interval(difference, self.groups, self._samples, self._seed)


def positions_of(contents: Contents) -> Positions | None:
    """The scored positions, where predictions.parquet is there."""
    if contents.predictions is None:
        return None
    return Positions(contents.predictions, contents.config.evaluation.bootstrap_samples, contents.config.seed)


def disagreement(contents: Contents, positions: Positions | None) -> str:
    """Says so where predictions.parquet does not give the figures of metrics.json; empty where it does."""
    stated = contents.systems().get(MODEL, {})
    for k in ks_of(stated) if positions else []:
        ours = float(positions.values(f"recall@{k}")[MODEL].mean()) if positions else 0.0
        if abs(ours - stated[f"recall@{k}"]) > _TOLERANCE:
            return (
                f"predictions.parquet gives Recall@{k} {ours:.6f}, metrics.json {stated[f'recall@{k}']:.6f}: they are "
                "of two evaluations, and what is computed from single positions does not belong to the figures here."
            )
    return ""


def headline(contents: Contents, positions: Positions | None) -> Section:
    """Model beside baselines, with the protocol in a sentence."""
    systems = contents.systems()
    if not systems:
        return Section("figures", "Figures", missing=NOT_EVALUATED.format(contents.name))
    metrics = [m for m in (_SCORE, "ndcg@10", "mrr") if m in systems.get(MODEL, {})]
    problem = disagreement(contents, positions)
    tables = [
        _main_table(contents.systems(which), caption)
        for which, caption in (("all", "All positions"), ("last", "Last position of each sequence"))
    ]
    every = [
        _every_figure(contents.systems(which), caption)
        for which, caption in (("all", "Every figure, all positions"), ("last", "Every figure, last positions"))
    ]
    protocol = Table(
        "The protocol in full", ["Setting", "Value"], settings(contents.protocol), folded=True, style="facts"
    )
    return Section(
        "figures",
        "Figures",
        lead=_protocol_sentence(contents, positions),
        cards=[_card(systems, m, None if problem else positions) for m in metrics],
        tables=[t for t in [*tables, *every, protocol] if t.rows],
        notes=[*_miss_notes(contents, positions), *([problem] if problem else [])],
    )


def _best_baseline(systems: Mapping[str, Mapping[str, Any]], metric: str) -> str | None:
    others = [n for n in systems if n != MODEL and metric in systems[n]]
    return max(others, key=lambda n: systems[n][metric]) if others else None


def _card(systems: Mapping[str, Mapping[str, Any]], metric: str, positions: Positions | None) -> Card:
    value = systems[MODEL][metric]
    interval = systems[MODEL].get(f"{metric}_interval")
    lines = [f"95 % interval {between(interval)}"] if interval else []
    best = _best_baseline(systems, metric)
    if best is not None:
        lines.append(f"{system_name(best)}, the best baseline: {figure(systems[best][metric])}")
        line = f"difference {signed(value - systems[best][metric])}"
        if positions is not None and best in positions.ranks:
            gained = positions.gain(metric, best)[1]
            line += f" ({signed(gained[0])} to {signed(gained[1])})" if gained else ""
        lines.append(line)
    return Card(metric_name(metric), value, figure(value), lines)


def _main_table(systems: Mapping[str, Mapping[str, Any]], caption: str) -> Table:
    """One row a system, the main metrics."""
    present = systems.get(MODEL, {})
    metrics = [m for m in ("recall@1", _SCORE, "ndcg@10", "mrr", "coverage@10") if m in present]
    best = {m: max(s[m] for s in systems.values() if m in s) for m in metrics}
    rows = [
        [Cell(system_name(name)), *(_figure_cell(values, m, values.get(m) == best[m]) for m in metrics)]
        for name, values in systems.items()
    ]
    note = "Bold: the best of a column. Below a figure: its bootstrap 95 % interval."
    return Table(caption, ["", *(metric_name(m) for m in metrics)], rows, note)


def _every_figure(systems: Mapping[str, Mapping[str, Any]], caption: str) -> Table:
    """One row a metric, one column a system."""
    metrics = [m for m, v in systems.get(MODEL, {}).items() if isinstance(v, int | float)]
    rows = [[Cell(metric_name(m)), *(_figure_cell(s, m) for s in systems.values())] for m in metrics]
    return Table(caption, ["", *map(system_name, systems)], rows, folded=True)


def _figure_cell(values: Mapping[str, Any], metric: str, strong: bool = False) -> Cell:
    value = values.get(metric)
    if value is None:
        return Cell("–")
    return Cell(figure(value), value, between(values.get(f"{metric}_interval")), strong=strong)


def _protocol_sentence(contents: Contents, positions: Positions | None) -> str:
    # The protocol, not the run's configuration: `evaluate` may have been asked for another.
    protocol = contents.protocol
    newest = protocol.get("max_length", contents.config.model.max_length)
    seen = {"keep": "kept", "remove": "removed"}.get(str(protocol.get("seen")), "treated as the protocol says")
    made_of = protocol.get("vocabulary", {"commands": protocol.get("catalogue", 0), "workflows": 0})
    catalogue = f" of {plural(made_of['commands'], 'command')}" if made_of["commands"] else ""
    catalogue += f" and {plural(made_of['workflows'], 'workflow')} made of them" if made_of["workflows"] else ""
    scored = ""
    if positions is not None:
        unit = {"user_id": "user", "session_id": "session"}.get(str(protocol.get("groups")), "group")
        groups = len(np.unique(positions.groups))
        scored = f" ({plural(len(positions.groups), 'position')} of {plural(groups, unit)})"
    return (
        f"{(contents.split() or '').capitalize()} split: each event with at least one event before it{scored} is "
        f"predicted from exactly the newest {count(newest)} of those, by a full ranking{catalogue}; ties count against "
        f"the model, items of the history are {seen}, and a command that training never saw is a miss."
    )


def _miss_notes(contents: Contents, positions: Positions | None) -> list[str]:
    if positions is None:
        return []
    ranks = positions.ranks[MODEL]
    total, none, first = len(ranks), int((ranks == 0).sum()), int((ranks == 1).sum())
    within = int(((ranks > 1) & (ranks <= 10)).sum())
    later = total - none - first - within
    why = " or was removed as seen" if contents.protocol.get("seen") == "remove" else ""
    return [
        f"Of {plural(total, 'position')}, the truth stands at rank 1 at {count(first)} ({percent(first / total)}), "
        f"at rank 2 to 10 at {count(within)} ({percent(within / total)}), below at {count(later)} "
        f"({percent(later / total)}), and is unknown to training{why} at {count(none)} ({percent(none / total)}): "
        "misses that no ranking of known commands can avoid."
    ]


def recall_section(contents: Contents, positions: Positions | None) -> Section:
    """Recall@k of the model and each baseline."""
    systems = contents.systems()
    if not systems:
        return Section("recall", "Recall@k", missing=NOT_EVALUATED.format(contents.name))
    ks = sorted({k for values in systems.values() for k in ks_of(values)})
    usable = positions if positions is not None and not disagreement(contents, positions) else None
    computed = {k: usable.intervals(f"recall@{k}") for k in ks} if usable else {}
    bars = []
    for name, values in systems.items():
        intervals = [values.get(f"recall@{k}_interval") or computed.get(k, {}).get(name) for k in ks]
        heights = [values.get(f"recall@{k}") for k in ks]
        bars.append(Bars(system_name(name), system_style(name), heights, intervals))
    rows = [
        [Cell(f"Recall@{k}")]
        + [
            Cell("–") if (value := b.values[i]) is None else Cell(figure(value), value, between(b.interval(i)))
            for b in bars
        ]
        for i, k in enumerate(ks)
    ]
    keys = [(b.name, b.style) for b in bars]
    chart = bar_chart("Recall at k by system", [(f"k = {k}", "") for k in ks], bars)
    figures = [Figure("Share of positions whose true next command is among the first k.", chart, legend(keys))]
    table = Table("Recall@k, all positions", ["", *(b.name for b in bars)], rows, "Below a figure: its 95 % interval.")
    note = "Intervals: bootstrap over whole groups (users or sessions), since positions of one group go together."
    return Section("recall", "Recall@k beside baselines", figures=figures, tables=[table], notes=[note])


def bucket_labels(starts: Sequence[int], brief: bool = False) -> list[str]:
    """Names of the half-open ranges that begin at `starts`; `brief`: 1k–10k for what is 1,000–9,999.

    >>> bucket_labels((1, 2, 10, 1000))
    ['1', '2–9', '10–999', '≥ 1,000']
    """
    labels = []
    for start, following in zip(starts, [*starts[1:], None], strict=True):
        if following is None:
            labels.append(f"≥ {short(start) if brief else count(start)}")
        elif brief and start >= 1000:
            labels.append(f"{short(start)}–{short(following)}")
        else:
            labels.append(count(start) if following == start + 1 else f"{count(start)}–{count(following - 1)}")
    return labels


def frequency_section(contents: Contents, positions: Positions | None) -> Section:
    """Recall@10 by how often training saw the true command."""
    key, title = "frequency", "Quality by command frequency"
    if positions is None or contents.items is None:
        return Section(key, title, missing=NO_PREDICTIONS.format(contents.name))
    targets = positions.table["target"].to_numpy()
    # Reserved ids count events too, of many commands at once; each of these is unknown.
    seen = np.where([contents.items.names[t] is None for t in targets], 0, contents.items.counts[targets])
    return _bucket_section(
        positions, seen, _FREQUENCIES, key, title, "Events of the true command in train",
        "How much depends on having seen the command often. Bucket 0: commands without an id of their own, or without "
        "an event in train.",
    )  # fmt: skip


def length_section(contents: Contents, positions: Positions | None) -> Section:
    """Recall@10 by how many events precede the predicted one."""
    key, title = "length", "Quality by history length"
    if positions is None:
        return Section(key, title, missing=NO_PREDICTIONS.format(contents.name))
    before = positions.table["position"].to_numpy()
    return _bucket_section(
        positions, before, _LENGTHS, key, title, "Events before the predicted one",
        f"How much the history helps. The model reads its newest {count(contents.config.model.max_length)} events.",
    )  # fmt: skip


def _bucket_section(
    positions: Positions,
    numbers: np.ndarray[Any, Any],
    starts: Sequence[int],
    key: str,
    title: str,
    axis: str,
    lead: str,
) -> Section:
    bucket = np.searchsorted(np.asarray(starts), numbers, side="right") - 1
    names, used = bucket_labels(starts), [int(b) for b in np.unique(bucket) if b >= 0]
    parts = [positions.where(bucket == b) for b in used]
    means = [{n: float(v.mean()) for n, v in part.values(_SCORE).items()} for part in parts]
    intervals = [part.intervals(_SCORE) for part in parts]
    bars = [
        Bars(system_name(n), system_style(n), [m[n] for m in means], [i.get(n) for i in intervals])
        for n in positions.ranks
    ]
    total, rows = len(numbers), []
    for at, b in enumerate(used):
        n = len(parts[at].groups)
        cells = [Cell(figure(m), m, between(i)) for m, i in ((e.values[at] or 0.0, e.interval(at)) for e in bars)]
        rows.append([Cell(names[b]), counted(n), shared(n / total), *cells])
    brief = bucket_labels(starts, brief=True)
    groups = [(brief[b], f"n {count(len(part.groups))}") for b, part in zip(used, parts, strict=True)]
    chart = bar_chart(f"{metric_name(_SCORE)} by {axis.lower()}", groups, bars)
    caption = f"{metric_name(_SCORE)} by {axis[0].lower()}{axis[1:]}; n: positions."
    header = [axis, "Positions", "Share", *(b.name for b in bars)]
    keys = legend([(b.name, b.style) for b in bars])
    table = Table(f"{metric_name(_SCORE)} in each bucket", header, rows, "Below a figure: its 95 % interval.")
    outside = int((bucket < 0).sum())
    notes = [f"{plural(outside, 'position')} below {starts[0]} are not shown."] if outside else []
    return Section(key, title, lead=lead, figures=[Figure(caption, chart, keys)], tables=[table], notes=notes)


def confusion_counts(table: pl.DataFrame, most: int = _CONFUSIONS) -> pl.DataFrame:
    """The most frequent (target, top1) pairs where the first suggestion is wrong and the truth known.

    Columns: target, top1, count, listed (of `count`, truth within the first 10), positions (of that target).
    """
    known = table.filter(pl.col(f"{RANK}{MODEL}") > 0)
    totals = known.group_by("target").agg(pl.len().alias("positions"))
    within = (pl.col(f"{RANK}{MODEL}") <= 10).sum().alias("listed")
    wrong = known.filter(pl.col("target") != pl.col("top1"))
    pairs = wrong.group_by("target", "top1").agg(pl.len().alias("count"), within).join(totals, on="target")
    return pairs.sort(["count", "target", "top1"], descending=[True, False, False]).head(most)


def confusion_section(contents: Contents, positions: Positions | None) -> Section:
    """True command against the model's first suggestion."""
    key, title = "confusions", "Most confused commands"
    if positions is None or contents.items is None:
        return Section(key, title, missing=NO_PREDICTIONS.format(contents.name))
    table = positions.table
    pairs = confusion_counts(table)
    wrong = table.filter((pl.col(f"{RANK}{MODEL}") > 0) & (pl.col("target") != pl.col("top1"))).height
    if not pairs.height:
        return Section(key, title, lead="The first suggestion is right wherever the truth is known to training.")
    rows = [_confusion_row(row, contents.items, int(pairs["count"].max())) for row in pairs.iter_rows(named=True)]  # type: ignore[arg-type]
    shown = int(pairs["count"].sum())
    header = ["True command", "First suggestion", "Times", "Of its positions", "Truth in the first 10"]
    caption = f"The most frequent pairs: {count(shown)} of {count(wrong)} wrong first suggestions"
    lead = (
        f"Over {plural(len(positions.groups), 'position')}; those whose truth is unknown to training are left out. "
        "Of its positions: how often the true command was taken for this other one. Truth in the first 10: it was "
        "suggested all the same, further down."
    )
    return Section(key, title, lead=lead, tables=[Table(caption, header, rows)])


def _confusion_row(row: Mapping[str, int], items: Items, largest: int) -> list[Cell]:
    number = row["count"]
    return [
        Cell(items.name(row["target"])),
        Cell(items.name(row["top1"])),
        Cell(count(number), number, bar=number / largest),
        Cell(f"{percent(number / row['positions'])} of {count(row['positions'])}", number / row["positions"]),
        Cell(percent(row["listed"] / number), row["listed"] / number),
    ]
