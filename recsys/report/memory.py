"""Section about the memory of training: what was planned from shapes, and what was measured."""

from collections.abc import Mapping
from typing import Any

from peft_ext.cards import size_text
from recsys.report.blocks import Cell, Section, Table, count, percent
from recsys.report.contents import Contents

PARTS = {"weights": "Weights", "gradients": "Gradients", "optimizer": "Optimizer", "activations": "Activations"}
ADAPTERS = {
    "adapters": "Numbers in the adapters",
    "adapters_by_formula": "By the formula, r (d + k) summed over targets",
}
_LEAD = (
    "Planned from shapes alone, for a batch of the first step's {sequences} sequences of {events} events, and measured "
    "in that step: weights, gradients and optimizer are the tensors that were there, activations what was kept for the "
    "backward pass."
)


def memory_section(contents: Contents) -> Section:
    """Share of trained parameters, and each part's bytes, planned and measured."""
    key, title, memory = "memory", "Memory of training", contents.memory
    if memory is None:
        return Section(key, title, missing=_why_missing(contents))
    measured, planned = memory["measured"], memory.get("planned") or {}
    rows = [
        [Cell(name), _size(planned.get(part)), _size(measured.get(part)), Cell(_off(planned, measured, part))]
        for part, name in PARTS.items()
    ]
    facts = [
        [Cell("Parameters"), Cell(count(memory["parameters"]), memory["parameters"])],
        [Cell("Trained"), _share(memory["trainable"], memory["parameters"])],
        *([Cell(name), _number(measured[part])] for part, name in ADAPTERS.items() if part in measured),
        [Cell("Device"), Cell(str(memory.get("device", "")))],
    ]
    facts += [[Cell(name), _size(size)] for name, size in _peaks(measured).items()]
    notes = [_by_type(planned)] if planned else [f"No plan: {memory.get('not_planned', 'the run has none')}."]
    if planned:
        total = size_text(planned["total"])
        notes.append(f"Planned at the busiest moment of such a step: {total}, gradients of activations included.")
    return Section(
        key,
        title,
        lead=_LEAD.format(**memory["first_batch"]),
        tables=[
            Table("Memory of a step", ["Part", "Planned", "Measured", "Off by"], rows),
            Table("Parameters and peaks", ["Fact", "Value"], facts, style="facts"),
        ],
        notes=notes,
    )


def _why_missing(contents: Contents) -> str:
    merged = (contents.environment or {}).get("merged")
    if isinstance(merged, dict):
        return f"This run was merged, not trained: the memory of training stands in the report of {merged.get('run')}."
    return "memory.json is missing: the run was trained before it was measured, or is not finished."


def _number(value: int) -> Cell:
    return Cell(count(value), value)


def _size(value: int | None) -> Cell:
    return Cell("–") if value is None else Cell(size_text(value), value)


def _share(trained: int, parameters: int) -> Cell:
    return Cell(f"{count(trained)} ({percent(trained / max(1, parameters))})", trained)


def _off(planned: Mapping[str, Any], measured: Mapping[str, Any], part: str) -> str:
    if not planned.get(part) or measured.get(part) is None:
        return "–"
    off = measured[part] / planned[part] - 1
    return "exact" if off == 0 else f"{100 * off:+.1f} %".replace("-", "−")


def _peaks(measured: Mapping[str, int]) -> dict[str, int]:
    """What was highest over the whole run: of the card where there was one, else of the process."""
    if "peak" in measured:
        return {"Peak of the card's memory": measured["peak"]}
    start, peak = measured.get("resident_at_start"), measured.get("resident_peak")
    found = {"Resident memory as training began": start, "Highest resident memory of the process": peak}
    return {name: size for name, size in found.items() if size is not None}


def _by_type(planned: Mapping[str, Any]) -> str:
    kinds = ", ".join(f"{kind} {size_text(size)}" for kind, size in planned.get("weights_by_type", {}).items())
    return f"Weights by type: {kinds}."
