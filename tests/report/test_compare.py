"""Runs beside each other: paired by position, named by what differs, refused where positions differ."""

import numpy as np
import polars as pl
import pytest

from recsys.config import load_config, save_config
from recsys.errors import RunError
from recsys.report import report
from recsys.report.compare import compare_section
from recsys.report.contents import read_contents


@pytest.fixture
def pair(make_run):
    """A run, and one without fusion whose every 4th position is a miss."""
    this, other = make_run("full"), make_run("plain")
    config = load_config(other / "config.yaml", ["model.inputs.fusion=sum", "model.auxiliary=[]"])
    save_config(config, other / "config.yaml")
    table = pl.read_parquet(other / "predictions.parquet")
    ranks = np.where(np.arange(len(table)) % 4 == 0, 0, table["rank_model"].to_numpy())
    table.with_columns(rank_model=pl.Series(ranks, dtype=pl.Int32)).write_parquet(other / "predictions.parquet")
    return this, other


def recall(run) -> np.ndarray:
    ranks = pl.read_parquet(run / "predictions.parquet")["rank_model"].to_numpy()
    return ((ranks >= 1) & (ranks <= 10)).astype(float)


def test_it_states_both_runs_and_the_paired_difference(pair):
    this, other = pair
    first, second = compare_section(read_contents(this), [other]).tables[0].rows
    assert [cell.text for cell in first[:2]] == ["full", "this run"]
    assert second[0].text == "plain"
    assert second[1].text == "model.inputs.fusion: sum; model.auxiliary: none"
    assert first[2].value == pytest.approx(recall(this).mean())
    assert second[2].value == pytest.approx(recall(other).mean())
    assert second[3].value == pytest.approx((recall(this) - recall(other)).mean())
    low, high = (float(v) for v in second[3].note.split("–"))
    assert low < second[3].value < high


def test_a_run_beside_itself_differs_in_nothing(make_run):
    run = make_run("full")
    row = compare_section(read_contents(run), [run]).tables[0].rows[1]
    assert row[1].text == "nothing"
    assert row[3].value == row[5].value == 0


def test_the_page_holds_the_section_when_asked(pair):
    this, other = pair
    assert "Beside other runs" not in report(this).read_text()
    assert "Beside other runs" in report(this, compare=[other]).read_text()


def test_other_positions_are_refused(make_run):
    this, other = make_run("full"), make_run("short", positions=500)
    with pytest.raises(RunError, match=r"was measured on other positions \('row' differs; 500 positions"):
        report(this, compare=[other])
    (other / "predictions.parquet").unlink()
    with pytest.raises(RunError, match="not evaluated yet"):
        report(this, compare=[other])
