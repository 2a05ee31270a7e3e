"""The report's section on memory: planned and measured bytes as memory.json has them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recsys.errors import RunError
from recsys.report import report
from recsys.report.contents import read_contents
from recsys.report.facts import facts_section
from recsys.report.memory import memory_section

MEMORY: dict[str, Any] = {
    "device": "cpu",
    "first_batch": {"sequences": 8, "events": 110},
    "parameters": 1_000_000,
    "trainable": 25_000,
    "measured": {
        "weights": 3 * 2**20,
        "gradients": 100_000,
        "optimizer": 200_016,
        "activations": 103 * 2**20,
        "resident_at_start": 2**29,
        "resident_peak": 2**30,
    },
    "planned": {
        "weights": 3 * 2**20,
        "gradients": 100_000,
        "optimizer": 200_016,
        "activations": 100 * 2**20,
        "working": 10 * 2**20,
        "total": 118_789_136,
        "weights_by_type": {"nf4": 2**21, "float32": 2**20},
    },
}


def section(run: Path, memory: dict[str, Any]):
    (run / "memory.json").write_text(json.dumps(memory))
    return memory_section(read_contents(run))


def rows(found, table: int) -> dict[str, list[str]]:
    return {row[0].text: [cell.text for cell in row[1:]] for row in found.tables[table].rows}


def test_planned_and_measured_stand_side_by_side(make_run: Callable[..., Path]) -> None:
    found = section(make_run(), MEMORY)
    assert rows(found, 0) == {
        "Weights": ["3.00 MiB", "3.00 MiB", "exact"],
        "Gradients": ["97.66 KiB", "97.66 KiB", "exact"],
        "Optimizer": ["195.33 KiB", "195.33 KiB", "exact"],
        "Activations": ["100.00 MiB", "103.00 MiB", "+3.0 %"],
    }
    assert found.tables[0].rows[3][2].value == 103 * 2**20
    facts = rows(found, 1)
    assert facts["Trained"] == ["25,000 (2.5 %)"] and facts["Parameters"] == ["1,000,000"]
    assert facts["Highest resident memory of the process"] == ["1.00 GiB"]
    assert "8 sequences of 110 events" in found.lead
    assert "nf4 2.00 MiB, float32 1.00 MiB" in found.notes[0]


def test_a_card_has_its_own_peak(make_run: Callable[..., Path]) -> None:
    found = section(make_run(), {**MEMORY, "device": "H100", "measured": {**MEMORY["measured"], "peak": 2**31}})
    facts = rows(found, 1)
    assert facts["Peak of the card's memory"] == ["2.00 GiB"] and facts["Device"] == ["H100"]
    assert not any("esident" in name for name in facts)


def test_adapters_stand_beside_their_formula(make_run: Callable[..., Path]) -> None:
    run = make_run()
    measured = {**MEMORY["measured"], "adapters": 12_345, "adapters_by_formula": 12_346}
    facts = rows(section(run, {**MEMORY, "measured": measured}), 1)
    assert facts["Numbers in the adapters"] == ["12,345"]
    assert facts["By the formula, r (d + k) summed over targets"] == ["12,346"]
    assert not any("ormula" in name or "dapters" in name for name in rows(section(run, MEMORY), 1))


def test_a_merged_run_says_where_its_memory_is(make_run: Callable[..., Path]) -> None:
    run = make_run()
    file = run / "environment.json"
    values = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({**values, "merged": {"run": "runs/lora", "method": "lora"}}))
    missing = memory_section(read_contents(run)).missing
    assert "merged, not trained" in missing and "runs/lora" in missing and "before it was measured" not in missing


def test_what_is_missing_is_said(make_run: Callable[..., Path]) -> None:
    run = make_run()
    assert "memory.json is missing" in memory_section(read_contents(run)).missing
    found = section(run, {**MEMORY, "planned": None, "not_planned": "it looks at values"})
    assert found.notes == ["No plan: it looks at values."]
    assert rows(found, 0)["Weights"] == ["–", "3.00 MiB", "–"]
    page = report(run).read_text()
    assert 'id="memory"' in page and "3.00 MiB" in page


def test_a_damaged_file_is_named(make_run: Callable[..., Path]) -> None:
    with pytest.raises(RunError, match=r"memory.json: measured\.weights: .*valid integer"):
        section(make_run(), {**MEMORY, "measured": {"weights": "much"}})


def test_the_facts_of_the_run_count_what_is_trained(make_run: Callable[..., Path]) -> None:
    run = make_run()
    section(run, MEMORY)
    facts = {row[0].text: row[1].value for row in facts_section(read_contents(run)).tables[0].rows}
    assert (facts["Trained parameters"], facts["Numbers saved with the run"]) == (25_000, 3 * 5 + 7)
