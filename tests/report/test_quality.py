"""Buckets, gains and confusions against plain loops over the predictions."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.report.contents import read_contents
from recsys.report.quality import (
    Positions,
    confusion_counts,
    confusion_section,
    disagreement,
    frequency_section,
    headline,
    length_section,
    positions_of,
    recall_section,
)


@pytest.fixture
def run(make_run) -> Path:
    return make_run()


def rows_of(run: Path) -> list[dict]:
    return pl.read_parquet(run / "predictions.parquet").to_dicts()


def cells(section) -> dict[str, list]:
    (table,) = section.tables
    return {row[0].text: [cell.value for cell in row[1:]] for row in table.rows}


def recall(rows: list[dict], system: str) -> float:
    return sum(1 <= row[f"rank_{system}"] <= 10 for row in rows) / len(rows)


def test_frequency_buckets(run: Path) -> None:
    contents = read_contents(run)
    items = pl.read_parquet(run / "workflow" / "items.parquet").to_dicts()
    found = cells(frequency_section(contents, positions_of(contents)))
    buckets: dict[str, list[dict]] = {}
    for row in rows_of(run):
        seen = items[row["target"]]["count"] if items[row["target"]]["item_id"] is not None else 0
        name = "0" if seen == 0 else f"{10 ** (len(str(seen)) - 1):,}–{10 ** len(str(seen)) - 1:,}"
        buckets.setdefault(name, []).append(row)
    assert set(found) == set(buckets)
    for name, rows in buckets.items():
        number, share, model, *_ = found[name]
        assert number == len(rows)
        assert share == pytest.approx(len(rows) / 2_000)
        assert model == pytest.approx(recall(rows, "model"))
    assert found["0"][2:] == [0.0] * 5


def test_length_buckets(run: Path) -> None:
    contents = read_contents(run)
    found = cells(length_section(contents, positions_of(contents)))
    rows = [row for row in rows_of(run) if 10 <= row["position"] <= 19]
    assert found["10–19"][0] == len(rows)
    assert found["10–19"][2:4] == pytest.approx([recall(rows, "model"), recall(rows, "popularity")])
    assert sum(values[0] for values in found.values()) == 2_000


def test_bars_carry_the_intervals_of_metrics_json(run: Path) -> None:
    contents = read_contents(run)
    stated = json.loads((run / "metrics.json").read_text())["splits"]["test"]["positions"]["all"]["markov2"]
    section = recall_section(contents, positions_of(contents))
    low, high = stated["recall@5_interval"]
    assert (
        f"Markov-2, k = 5: {stated['recall@5']:.3f} (95 % interval {low:.3f} to {high:.3f})" in section.figures[0].chart
    )


def test_intervals_that_metrics_json_lacks_are_computed_alike(run: Path) -> None:
    whole = recall_section((c := read_contents(run)), positions_of(c)).figures[0].chart
    metrics = json.loads((run / "metrics.json").read_text())
    for values in metrics["splits"]["test"]["positions"]["all"].values():
        for key in [k for k in values if k.endswith("_interval")]:
            del values[key]
    (run / "metrics.json").write_text(json.dumps(metrics))
    contents = read_contents(run)
    assert recall_section(contents, positions_of(contents)).figures[0].chart == whole
    assert "interval" not in recall_section(contents, None).figures[0].chart


def test_gain_is_paired(run: Path) -> None:
    table = pl.read_parquet(run / "predictions.parquet").with_columns(pl.col("group").rank("dense").cast(pl.Int64))
    same = table.with_columns(pl.col("rank_model").alias("rank_markov2"))
    assert Positions(same, 100, 0).gain("recall@10", "markov2") == (0.0, (0.0, 0.0))
    gain, interval = Positions(table, 100, 0).gain("recall@10", "popularity")
    rows = table.to_dicts()
    assert gain == pytest.approx(recall(rows, "model") - recall(rows, "popularity"))
    assert interval is not None
    assert interval[0] < gain < interval[1]
    assert Positions(table, 0, 0).gain("recall@10", "popularity")[1] is None


def test_confusions_are_counted() -> None:
    table = pl.DataFrame(
        {
            "target": [3, 3, 3, 3, 4, 4, 2, 5],
            "top1": [4, 4, 3, 5, 3, 4, 3, 3],
            "rank_model": [2, 30, 1, 4, 2, 1, 0, 11],
        }
    )
    assert confusion_counts(table).rows() == [(3, 4, 2, 1, 4), (3, 5, 1, 1, 4), (4, 3, 1, 1, 2), (5, 3, 1, 0, 1)]
    assert confusion_counts(table, most=1).height == 1


def test_confusion_table_names_the_commands(run: Path) -> None:
    contents = read_contents(run)
    names = pl.read_parquet(run / "workflow" / "items.parquet")["item_id"].to_list()
    wrong = [(r["target"], r["top1"]) for r in rows_of(run) if r["rank_model"] > 0 and r["target"] != r["top1"]]
    ((target, top1), number) = Counter(wrong).most_common(1)[0]
    (table,) = confusion_section(contents, positions_of(contents)).tables
    assert [c.text for c in table.rows[0][:2]] == [names[target], names[top1]]
    assert table.rows[0][2].value == number
    assert f"of {len(wrong):,} wrong" in table.caption


def test_headline_says_what_the_protocol_says(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["protocol"] |= {"seen": "remove", "max_length": 50}
    (run / "metrics.json").write_text(json.dumps(metrics))
    contents = read_contents(run)
    section = headline(contents, positions_of(contents))
    assert "items of the history are removed" in section.lead
    assert "newest 50 " in section.lead
    assert "2,000 positions of 10 users" in section.lead
    misses = sum(row["rank_model"] == 0 for row in rows_of(run))
    assert misses > 0
    assert f"removed as seen at {misses:,} " in section.notes[0]


def test_predictions_of_another_evaluation_are_noticed(run: Path) -> None:
    contents = read_contents(run)
    assert disagreement(contents, positions_of(contents)) == ""
    path = run / "predictions.parquet"
    pl.read_parquet(path).with_columns(rank_model=pl.lit(1, dtype=pl.Int32)).write_parquet(path)
    contents = read_contents(run)
    section = headline(contents, positions_of(contents))
    assert "two evaluations" in section.notes[-1]
    # No interval of a difference is made from predictions that do not belong to the figures.
    assert not any("difference" in line and "(" in line for card in section.cards for line in card.lines)


def test_without_intervals_there_are_no_whiskers(make_run) -> None:
    run = make_run("plain", samples=1)
    metrics = json.loads((run / "metrics.json").read_text())
    for where in metrics["splits"]["test"]["positions"].values():
        for values in where.values():
            for key in [k for k in values if k.endswith("_interval")]:
                del values[key]
    (run / "metrics.json").write_text(json.dumps(metrics))
    text = (run / "config.yaml").read_text().replace("bootstrap_samples: 1", "bootstrap_samples: 0")
    (run / "config.yaml").write_text(text)
    contents = read_contents(run)
    positions = positions_of(contents)
    charts = [s.figures[0].chart for s in (recall_section(contents, positions), frequency_section(contents, positions))]
    assert not any("whisker" in chart for chart in charts)
    assert np.isfinite([c.value for c in headline(contents, positions).cards]).all()
