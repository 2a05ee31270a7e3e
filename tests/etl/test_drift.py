"""Drift against distributions and histograms counted by hand."""

import json
import math
import random
import statistics
from collections import Counter
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import InputError
from recsys.etl import Etl, Extension, Workflow, preprocess
from recsys.etl.drift import Measured, Shape, drift, js_distance, read_shape, summary
from recsys.etl.plan import Counts, count_events

COUNTS = st.lists(st.integers(0, 50), min_size=1, max_size=8)
CONFIG = (
    Etl()
    .categorical("item_id")
    .categorical("cat", min_count=2)
    .continuous("price")
    .bucketise("price", quantiles=2)
    .time("hour")
    .config()
)
DAY = 1_700_000_000_000_000


def make_events(sessions: int, seed: int, items: str = "abcde", price: float = 0.0) -> pl.DataFrame:
    rng = random.Random(seed)
    rows = []
    for session in range(sessions):
        time = DAY + rng.randrange(10**6) * 10**6
        for _ in range(rng.randrange(1, 20)):
            time += rng.choice([0, 300_000, 10**6, 5 * 10**6, 4096 * 10**6])
            number = rng.choice([None, math.nan, *(price + rng.random() for _ in range(9))])
            rows.append((f"s{session:02d}", time, rng.choice(items), rng.choice([None, "x", "y", "rare"]), number))
    names = {"session_id": pl.String, "timestamp": pl.Int64, "item_id": pl.String, "cat": pl.String}
    return pl.DataFrame(rows, schema={**names, "price": pl.Float64}, orient="row")


def entropy(shares: list[float]) -> float:
    return -sum(p * math.log2(p) for p in shares if p)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=8))
def test_distance_is_jensen_shannons(pairs):
    # By entropies, H((p + q) / 2) - (H(p) + H(q)) / 2: another formula for the same divergence.
    one, other = (list(column) for column in zip(*pairs, strict=True))
    if not sum(one) or not sum(other):
        assert math.isnan(js_distance(one, other))
        return
    p, q = [n / sum(one) for n in one], [n / sum(other) for n in other]
    middle = entropy([(a + b) / 2 for a, b in zip(p, q, strict=True)])
    divergence = middle - (entropy(p) + entropy(q)) / 2
    assert js_distance(one, other) == pytest.approx(math.sqrt(max(0.0, divergence)), abs=1e-6)
    assert js_distance(one, other) == js_distance(other, one)


def test_distance_of_known_pairs():
    assert js_distance([3, 1], [6, 2]) == 0
    assert js_distance([5, 0], [0, 2]) == 1
    # scipy.spatial.distance.jensenshannon([1, 0], [0.5, 0.5], base=2)
    assert js_distance([1, 0], [1, 1]) == pytest.approx(0.5579230452841438)


def test_shape_counts_lengths_and_gaps_in_powers_of_two_and_merges():
    workflow = Workflow(CONFIG).fit(make_events(5, 1))
    prepared = workflow.prepare(make_events(40, 2))
    lengths, gaps = Counter(), Counter()
    for _, times in sorted(prepared.group_by("session_id").agg("timestamp").iter_rows()):
        lengths[int(math.log2(len(times)))] += 1
        for before, after in pairwise(times):
            seconds = (after - before) / 10**6
            gaps[0 if seconds < 1 else 1 + int(math.log2(seconds))] += 1
    report = Shape.of(prepared).report()
    assert dict(enumerate(report["session_lengths"])) == {n: lengths[n] for n in range(max(lengths) + 1)}
    assert dict(enumerate(report["interval_seconds"])) == {n: gaps[n] for n in range(max(gaps) + 1)}
    names = prepared["session_id"].unique().sort()
    parts = [Shape.of(prepared.filter(pl.col("session_id").is_in(n.implode()))) for n in (names[:13], names[13:])]
    assert parts[0].merge(parts[1]).report() == report
    assert Shape.from_report(report).report() == report
    assert Shape.of(prepared.clear()).report() == {"session_lengths": [], "interval_seconds": []}


def test_shares_values_and_statistics_are_those_counted_by_hand():
    old, new = make_events(40, 1, items="abcde"), make_events(30, 2, items="bcdeXY", price=3.0)
    old = pl.concat([old, old.head(1).with_columns(cat=pl.lit("once"), item_id=pl.lit("gone"))])
    workflow = Workflow(CONFIG).fit(old)
    report = drift(workflow.fitted, count_events(workflow.prepare(new), workflow.plan, CONFIG))
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    items, total = Counter(new["item_id"]), new.height
    found = report["columns"]["item_id"]
    assert report["events"] == total
    share = (items["X"] + items["Y"]) / total
    listed = [{"value": v, "count": items[v]} for v in sorted("XY", key=lambda v: (-items[v], v))]
    assert found["new_values"] == {"count": 2, "share": round(share, 6), "most_frequent": listed}
    assert [row["value"] for row in found["vanished"]["most_frequent"]] == ["a", "gone"]
    gone = (old["item_id"] == "a").sum() + 1
    assert found["vanished"]["count"] == 2 and found["vanished"]["share"] == round(gone / old.height, 6)
    before = Counter(old["item_id"])
    names = [*"abcde", "gone"]
    both = [before[v] for v in names] + [0], [items[v] for v in names] + [items["X"] + items["Y"]]
    assert found["js_distance"] == pytest.approx(js_distance(*both), abs=1e-6)
    cat = report["columns"]["cat"]
    assert cat["null_share"] == {
        "before": round(old["cat"].null_count() / old.height, 6),
        "now": round(new["cat"].null_count() / total, 6),
    }
    assert cat["unknown_share"] == {"before": round(1 / old.height, 6), "now": 0.0}  # "once"
    price = [[v for v in frame["price"].drop_nulls() if not math.isnan(v)] for frame in (old, new)]
    moved = (statistics.fmean(price[1]) - statistics.fmean(price[0])) / statistics.pstdev(price[0])
    assert report["numbers"]["price"]["standardised_difference"] == pytest.approx(moved, abs=1e-5)
    assert report["numbers"]["price"]["missing_share"]["now"] == round(1 - len(price[1]) / total, 6)
    # All new prices lie in the upper half.
    half = report["columns"]["price_bucket"]
    assert half["new_values"]["count"] == 0 and half["vanished"]["count"] == 1
    assert report["session_lengths"]["js_distance"] is None


def test_the_same_events_have_not_drifted_and_parts_add_up():
    events = make_events(30, 3)
    workflow = Workflow(CONFIG).fit(events)
    prepared = workflow.prepare(events)
    whole = Measured.of(prepared, workflow.fitted)
    first = pl.col("session_id") < "s11"
    parts = [Measured.of(prepared.filter(own), workflow.fitted) for own in (first, ~first)]
    merged = parts[0].merge(parts[1])
    reports = [m.report(workflow.fitted, whole.shape)["drift"] for m in (whole, merged)]
    for report in reports:
        assert all(c["js_distance"] == 0 and c["new_values"]["count"] == 0 for c in report["columns"].values())
        assert abs(report["numbers"]["price"]["standardised_difference"]) < 1e-9
        assert report["session_lengths"]["js_distance"] == report["interval_seconds"]["js_distance"] == 0
    assert reports[0]["columns"] == reports[1]["columns"]
    assert Measured.of(prepared, None).report(None, None) == {"profile": whole.shape.report()}


def test_nothing_to_compare_is_said():
    workflow = Workflow(CONFIG).fit(make_events(5, 1))
    report = drift(workflow.fitted, Counts())
    assert summary(report) == ["no events to compare"]
    assert json.loads(json.dumps(report, allow_nan=False))["columns"]["item_id"]["js_distance"] is None


def test_summary_names_the_new_items():
    workflow = Workflow(CONFIG).fit(make_events(30, 1))
    new = make_events(30, 2, items="bcdeX", price=1.0)
    lines = summary(drift(workflow.fitted, count_events(workflow.prepare(new), workflow.plan, CONFIG)))
    share = (new["item_id"] == "X").mean()
    assert lines[0].startswith(f"1 items have no id, with {share:.1%} of {new.height} events (most: 'X' ")
    assert lines[1].startswith("1 items do not occur, which had ")
    assert "price +" in lines[3]


def test_reports_hold_the_profile_and_what_changed_since(tmp_path: Path):
    old, new = make_events(60, 1), make_events(60, 2, items="bcdeX")
    config = None
    first = preprocess(old, config, tmp_path / "old", blank=Workflow(CONFIG))
    assert "drift" not in first.report and first.drift() == []
    assert sum(first.report["profile"]["session_lengths"]) == 60
    assert read_shape(tmp_path / "old").report() == read_shape(tmp_path / "old" / "workflow").report()
    for options in ({"workflow": tmp_path / "old"}, {"blank": Extension.of(tmp_path / "old")}):
        made = preprocess(new, config, tmp_path / "new", overwrite=True, **options)
        found = json.loads((tmp_path / "new" / "report.json").read_text())["drift"]
        # Of all events, whichever split they fall in, against the old train split.
        assert found["events"] == new.height and found["columns"]["item_id"]["new_values"]["count"] == 1
        pair = [m.report["profile"]["session_lengths"] for m in (first, made)]
        size = max(map(len, pair))
        both = [[*p, *[0] * (size - len(p))] for p in pair]
        assert found["session_lengths"]["js_distance"] == pytest.approx(js_distance(*both), abs=1e-6)
    (tmp_path / "old" / "report.json").write_text('{"profile": {"session_lengths": 3}}')
    with pytest.raises(InputError, match=r"report\.json: 'profile' is damaged"):
        read_shape(tmp_path / "old")
    (tmp_path / "old" / "report.json").write_text("{}")
    assert read_shape(tmp_path / "old") is None
