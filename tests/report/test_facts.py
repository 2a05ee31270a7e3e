"""Training curves, funnel, splits and facts against the files that they are read from."""

import json
from pathlib import Path

import pytest
import yaml

from recsys.report.contents import read_contents
from recsys.report.facts import facts_section, funnel_section, split_section, training_section


@pytest.fixture
def run(make_run) -> Path:
    return make_run(positions=200)


def edit(path: Path, change) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_funnel_sums(run: Path) -> None:
    section = funnel_section(read_contents(run))
    (table,) = section.tables
    for stage, entered, left, out, *_ in table.rows:
        assert entered.value - left.value == out.value, stage.text
    for before, after in zip(table.rows, table.rows[1:], strict=False):
        assert before[3].value == after[1].value
    assert table.rows[0][1].value - sum(row[2].value for row in table.rows) == 251_000
    assert section.lead == "1,000,000 rows of raw log became 251,000 events of 3,141 sessions (25.1 %)."
    assert section.notes == []
    assert table.rows[2][5].text == "150,000 prefix; 50,000 view_id"


def test_funnel_that_does_not_add_up_says_so(run: Path) -> None:
    def lose(values):
        values["stages"][2]["removed"]["prefix"] -= 3
        values["stages"][4]["rows_in"] += 10
        values["stages"][4]["removed"]["repeat"] += 10

    edit(run / "cleaning" / "report.json", lose)
    notes = funnel_section(read_contents(run)).notes
    assert len(notes) == 2
    assert "noise: 3 rows are not accounted for" in notes[0]
    assert "collapse starts with 430,010 rows, the one before left 430,000" in notes[1]


def test_a_log_without_rows_is_no_division_by_zero(run: Path) -> None:
    edit(run / "cleaning" / "report.json", lambda v: v.update(stages=[{"stage": "parse", "rows_in": 0, "rows_out": 0}]))
    section = funnel_section(read_contents(run))
    assert section.figures == []
    assert section.lead.startswith("0 rows")


def test_curves_compare_like_with_like(run: Path) -> None:
    section = training_section(read_contents(run))
    losses, scores = section.figures
    assert losses.legend.count("<li>") == 3
    assert "kept, step 1,100" in losses.chart
    assert scores.legend.count("<li>") == 2
    (table,) = section.tables
    rows = json.loads((run / "history.json").read_text())["validation"]
    assert [[c.value for c in row] for row in table.rows] == [
        [r["step"], r["epoch"], r["loss"], r["recall@10"], r["ndcg@10"]] for r in rows
    ]
    assert [row[0].strong for row in table.rows].index(True) == len(rows) - 2


def test_one_head_is_one_train_curve(run: Path) -> None:
    edit(run / "history.json", lambda v: [r.update(item_loss=r["loss"]) for r in v["train"]])
    losses = training_section(read_contents(run)).figures[0]
    assert losses.legend.count("<li>") == 2


def test_training_without_validation(run: Path) -> None:
    edit(run / "history.json", lambda v: v.update(validation=[]))
    section = training_section(read_contents(run))
    assert len(section.figures) == 1
    assert section.tables == []
    assert section.notes == ["There was no validation: the weights are those of the last step."]


def test_split_sizes(run: Path) -> None:
    section = split_section(read_contents(run))
    values = json.loads((run / "dataset.json").read_text())["splits"]
    (table,) = section.tables
    names = {"Train": "train", "Validation": "val", "Test": "test"}
    for name, *numbers, why in table.rows:
        stated = values[names[name.text]]
        assert [c.value for c in numbers] == [stated[k] for k in ("groups", "events_in", "events_out", "sequences")]
        assert (why.text == "none") == (stated["events_in"] == stated["events_out"])
    assert "(each user)" in section.lead
    assert "(every 5th)" in section.lead
    assert section.notes == [
        "column 'cat' has one value in train",
        "7 commands of two or more groups do not occur in Test.",
    ]


def test_facts(run: Path) -> None:
    section = facts_section(read_contents(run))
    facts = {row[0].text: row[1] for row in section.tables[0].rows}
    assert facts["Numbers saved with the run"].value == 3 * 5 + 7 and "Trained parameters" not in facts
    assert facts["Commands with an id"].value == 92
    assert facts["CPU time of training"].text == "23 min 31 s"
    environment = {row[0].text: row[1].text for row in section.tables[1].rows}
    assert environment == {"python": "3.11.2", "versions: torch": "2.13.0", "seed": "0"}
    ((_, text),) = section.details
    assert yaml.safe_load(text) == yaml.safe_load((run / "config.yaml").read_text())
