"""The whole page: parses, holds the figures, escapes names, needs no network, says what is missing."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from recsys.errors import ConfigError, RunError
from recsys.report import report, show

VOID = {"meta", "br", "hr", "img", "input", "link"}
FETCHES = ("src", "href", "srcset", "action", "data", "xlink:href")


class Page(HTMLParser):
    """Checks that tags close in order; collects attributes, <data> values, table rows and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.values: set[float] = set()
        self.rows: list[list[str]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.attributes += [(tag, name, value or "") for name, value in attributes]
        if tag == "data":
            self.values.add(float(dict(attributes)["value"]))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.attributes += [(tag, name, value or "") for name, value in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if self.rows and ("td" in self.open or "th" in self.open):
            self.rows[-1][-1] += data


@pytest.fixture
def run(make_run) -> Path:
    return make_run()


def parse(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def test_holds_every_figure_of_metrics_json_exactly(run: Path) -> None:
    page = parse(report(run))
    positions = json.loads((run / "metrics.json").read_text())["splits"]["test"]["positions"]
    figures = [v for where in positions.values() for system in where.values() for v in system.values()]
    numbers = [v for v in figures if isinstance(v, float)]
    assert len(numbers) == 2 * 5 * 14
    assert set(numbers) <= page.values
    intervals = [v for v in figures if isinstance(v, list)]
    text = " ".join(page.texts)
    assert intervals
    assert all(f"{low:.3f}–{high:.3f}" in text for low, high in intervals)


def test_needs_no_network_and_no_script(run: Path) -> None:
    path = report(run)
    page = parse(path)
    links = [value for _, name, value in page.attributes if name in FETCHES]
    assert links
    assert all(link.startswith("#") for link in links)
    tags = {tag for tag, _, _ in page.attributes}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed"}
    text = path.read_text(encoding="utf-8")
    assert "<script" not in text
    assert not re.search(r"url\(|@import|https?://", text)
    assert path.stat().st_size < 200_000


def test_names_are_shown_as_they_are_and_never_read_as_html(run: Path) -> None:
    items = pl.read_parquet(run / "workflow" / "items.parquet")
    path = report(run)
    page = parse(path)
    text = "".join(page.texts)
    for name in items["item_id"].to_list()[3:6]:
        assert name in text
    assert run.name in text
    assert "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;" in path.read_text(encoding="utf-8")


def test_every_chart_has_a_name_and_its_coordinates_are_finite(run: Path) -> None:
    page = parse(report(run))
    drawn = [value for tag, name, value in page.attributes if tag == "svg" and name == "aria-label"]
    assert len(drawn) == 6
    assert all(drawn)
    shapes = [
        v for tag, name, v in page.attributes if tag in ("rect", "polyline", "path", "circle") and name != "class"
    ]
    assert shapes
    assert not any("nan" in value or "inf" in value for value in shapes)


def test_same_run_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    first = report(run).read_bytes()
    assert report(run, tmp_path / "elsewhere.html").read_bytes() == first


REQUIRED = {"config.yaml", "workflow"}
MISSING = {
    "metrics.json": "Nothing is measured yet",
    "predictions.parquet": "predictions.parquet is missing",
    "history.json": "history.json is missing",
    "cleaning": "cleaning/report.json is missing",
    "dataset.json": "sizes of splits are not known",
    "environment.json": "versions are not known",
    "model.safetensors": "what is saved is not counted",
}


@pytest.mark.parametrize("name", sorted(MISSING))
def test_says_what_is_missing_and_shows_the_rest(run: Path, name: str) -> None:
    whole = "".join(parse(report(run)).texts)
    path = run / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    text = "".join(parse(report(run)).texts)
    assert MISSING[name] in text
    assert MISSING[name] not in whole
    others = [said for other, said in MISSING.items() if other not in (name, "predictions.parquet")]
    assert not any(said in text for said in others)


def test_a_run_of_nothing_but_its_configuration_still_has_a_report(run: Path) -> None:
    for path in run.iterdir():
        if path.name != "config.yaml":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    text = "".join(parse(report(run)).texts)
    assert all(said in text for name, said in MISSING.items() if name != "predictions.parquet")


def test_errors_name_the_file(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such run directory"):
        report(tmp_path / "nowhere")
    (run / "history.json").write_text("{")
    with pytest.raises(RunError, match=r"history\.json: not valid JSON"):
        report(run)
    (run / "history.json").unlink()
    (run / "predictions.parquet").write_text("no table")
    with pytest.raises(RunError, match=r"predictions\.parquet: not a Parquet table"):
        report(run)
    assert not (run / "report.html").exists()


def test_predictions_of_other_items_are_refused(run: Path) -> None:
    path = run / "predictions.parquet"
    pl.read_parquet(path).with_columns(pl.col("top1") + 1000).write_parquet(path)
    with pytest.raises(RunError, match="item id 10"):
        report(run)


def test_a_notebook_shows_chosen_sections_in_a_frame(run: Path) -> None:
    frame = Page(show(run, "recall", "training", height=500)._repr_html_())
    page = dict((name, value) for _, name, value in frame.attributes)["srcdoc"]
    inner = Page(page)
    assert [v for t, name, v in inner.attributes if t == "section" and name == "id"] == ["recall", "training"]
    assert Page(show(run).page).values == parse(report(run)).values
    with pytest.raises(ConfigError, match="did you mean 'recall'"):
        show(run, "recal")
