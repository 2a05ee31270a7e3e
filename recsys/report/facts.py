"""Sections about how the run came about: training curves, cleaning funnel, splits, configuration, environment."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from markupsafe import Markup

from recsys.report.blocks import (
    Cell,
    Figure,
    Section,
    Table,
    count,
    counted,
    duration,
    figure,
    metric_name,
    percent,
    settings,
    shared,
)
from recsys.report.contents import Contents
from recsys.report.svg import Line, funnel_chart, legend, line_chart

SPLITS = {"train": "Train", "val": "Validation", "test": "Test"}
Points = list[tuple[float, float]]


def _points(rows: Sequence[Mapping[str, Any]], key: str) -> Points:
    return [(float(r["step"]), float(r[key])) for r in rows if r.get(key) is not None and "step" in r]


def training_section(contents: Contents) -> Section:
    """Loss of both splits and validation scores over steps."""
    key, title = "training", "Training"
    history = contents.history
    if history is None:
        return Section(key, title, missing="history.json is missing, so the curves of this run are not known.")
    train, validation = history.get("train", []), history.get("validation", [])
    best = history.get("best_step")
    mark = (float(best), f"kept, step {count(best)}") if isinstance(best, int | float) else None
    total, items = _points(train, "loss"), _points(train, "item_loss")
    losses = [
        Line("Train, next command", "s-popularity", items),
        Line("Validation, next command", "s-model", _points(validation, "loss"), dots=True),
        Line("Train, all heads" if items else "Train", "s-last", [] if total == items else total),
    ]
    scores = [
        Line(metric_name(m), style, _points(validation, m), dots=True)
        for m, style in (("recall@10", "s-model"), ("ndcg@10", "s-markov2"))
    ]
    figures = [_curves("Loss over steps.", losses, mark), _curves("Validation scores over steps.", scores, mark)]
    notes = [f"The weights kept are those of the best validation {metric_name(contents.config.training.best_metric)}."]
    notes += ["There was no validation: the weights are those of the last step."] if not validation else []
    return Section(
        key,
        title,
        lead="Losses of training are taken with dropout on. Validation scores the positions of each sequence's first "
        "window, so that its scores compare over steps, not with the figures above.",
        figures=[f for f in figures if f is not None],
        tables=[t for t in (_validation_table(validation, best),) if t.rows],
        notes=notes[-1:],
    )


def _curves(caption: str, lines: Sequence[Line], mark: tuple[float, str] | None) -> Figure | None:
    drawn = [line for line in lines if line.points]
    if not drawn:
        return None
    return Figure(caption, line_chart(caption, drawn, "step", mark), legend([(d.name, d.style) for d in drawn]))


def _validation_table(rows: Sequence[Mapping[str, Any]], best: object) -> Table:
    keys = [k for k in ("loss", "recall@10", "ndcg@10") if any(k in row for row in rows)]
    header = ["Step", "Epoch", *(metric_name(k) for k in keys)]
    body = []
    for row in rows:
        strong = row.get("step") == best
        cells = [Cell(count(row["step"]), row["step"], strong=strong)]
        cells.append(Cell(_decimal(row.get("epoch")), row.get("epoch")))
        body.append(cells + [_score(row.get(k), strong) for k in keys])
    return Table("Validation during training", header, body, "Bold: the checkpoint that was kept.")


def _decimal(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _score(value: object, strong: bool) -> Cell:
    if not isinstance(value, int | float):
        return Cell("–")
    return Cell(figure(value) if abs(value) < 1000 else count(value), value, strong=strong)


def funnel_section(contents: Contents) -> Section:
    """Rows in and out of every stage of cleaning, and why rows left."""
    key, title = "cleaning", "The cleaning funnel"
    stages = (contents.cleaning or {}).get("stages", [])
    if not stages:
        missing = "cleaning/report.json is missing: the events were not cleaned here, or its report was not kept."
        return Section(key, title, missing=missing)
    first, rows, notes = int(stages[0]["rows_in"]), [], []
    for at, stage in enumerate(stages):
        entered, left = int(stage["rows_in"]), int(stage["rows_out"])
        removed = {str(reason): int(n) for reason, n in stage.get("removed", {}).items()}
        lost = entered - left - sum(removed.values())
        if lost:
            notes.append(f"Stage {stage['stage']}: {count(lost)} rows are not accounted for; the report is wrong.")
        if at and entered != int(stages[at - 1]["rows_out"]):
            gap = int(stages[at - 1]["rows_out"])
            notes.append(f"Stage {stage['stage']} starts with {count(entered)} rows, the one before left {count(gap)}.")
        why = "; ".join(f"{count(n)} {reason}" for reason, n in removed.items() if n)
        rows.append(
            [
                Cell(str(stage["stage"]).replace("_", " ")),
                counted(entered),
                counted(entered - left),
                counted(left),
                shared(left / first if first else 0.0),
                Cell(why or "–", note=_stage_facts(stage)),
            ]
        )
    header = ["Stage", "Rows in", "Left", "Rows out", "Of all rows", "Why rows left"]
    out = int(stages[-1]["rows_out"])
    kept = f" ({percent(out / first)})" if first else ""
    sessions = (contents.cleaning or {}).get("result", {}).get("sessions")
    of = f" of {count(sessions)} sessions" if isinstance(sessions, int) else ""
    lead = f"{count(first)} rows of raw log became {count(out)} events{of}{kept}."
    table = Table("What each stage of cleaning took, in order", header, rows)
    shape = [(str(s["stage"]).replace("_", " "), int(s["rows_in"]), int(s["rows_out"])) for s in stages]
    chart = Figure("Rows that each stage let through, and (light) took.", funnel_chart(title, shape), Markup(""))
    return Section(key, title, lead=lead, figures=[chart] if first else [], tables=[table], notes=notes)


def _stage_facts(stage: Mapping[str, Any]) -> str:
    """What a stage says beside its rows: `kept as`, sessions, and so on."""
    known = ("stage", "rows_in", "rows_out", "removed")
    facts = {str(k).replace("_", " "): v for k, v in stage.items() if k not in known and v}
    return "; ".join(f"{k}: {count(v) if isinstance(v, int) else v}" for k, v in facts.items())


def split_section(contents: Contents) -> Section:
    """Groups, events and sequences of each split, and how groups were assigned."""
    key, title = "splits", "Splits"
    dataset = contents.dataset
    if dataset is None or "splits" not in dataset:
        missing = "dataset.json (the sequence dataset's report) is missing, so sizes of splits are not known."
        return Section(key, title, lead=_split_sentence(contents.protocol.get("split", {})), missing=missing)
    numbers = ("groups", "events_in", "events_out", "sequences")
    rows = []
    for name, values in dataset["splits"].items():
        dropped = {str(r): int(n) for r, n in values.get("dropped_events", {}).items() if n}
        why = "; ".join(f"{count(n)} {reason.replace('_', ' ')}" for reason, n in dropped.items())
        cells = [counted(int(values[n])) if n in values else Cell("–") for n in numbers]
        rows.append([Cell(SPLITS.get(name, name)), *cells, Cell(why or "none")])
    header = ["Split", "Groups", "Events read", "Events kept", "Sequences", "Events that left, and why"]
    table = Table("Sizes of the splits", header, rows)
    return Section(
        key, title, lead=_split_sentence(dataset.get("split", {})), tables=[table], notes=_split_notes(dataset)
    )


def _split_sentence(split: Mapping[str, Any]) -> str:
    if "by" not in split:
        return ""
    unit = {"user_id": "user", "session_id": "session"}.get(str(split.get("by")), str(split.get("by")))
    if "sequence" in split:
        names = ("k", "validation_from", "test_from", "validation_share", "test_share")
        given = ", ".join(f"{name.replace('_', ' ')} {split[name]}" for name in names if name in split)
        return (
            f"Each {unit} is one sequence, cut by the rule “{split.get('rule')}” ({given}): training sees its earlier "
            "events; validation and test read them as history and score the later ones only."
        )
    every = f" (every {split['every']}th)" if "every" in split else ""
    return (
        f"Whole groups (each {unit}) go to one split, by the rule “{split.get('rule')}”{every} with seed "
        f"{split.get('seed')}, before anything is fitted."
    )


def _split_notes(dataset: Mapping[str, Any]) -> list[str]:
    notes = [str(warning) for warning in dataset.get("warnings", [])]
    note = dataset.get("split", {}).get("note")
    if note:
        notes.append(str(note))
    for name, entry in dataset.get("split", {}).get("uncovered", {}).items():
        number = entry.get("count", 0) if isinstance(entry, dict) else 0
        if number:
            notes.append(f"{count(number)} commands of two or more groups do not occur in {SPLITS.get(name, name)}.")
    return notes


def facts_section(contents: Contents) -> Section:
    """Sizes, cost, seed, versions and the whole configuration."""
    config, history = contents.config, contents.history or {}
    backbone = config.model.backbone
    heads = f"{backbone.num_heads} heads, " if backbone.knows("num_heads") and backbone.architecture is None else ""
    facts: dict[str, Cell] = {
        "Kind": Cell(config.kind),
        "Cleaning profile": Cell(config.profile or "none"),
        "Model": Cell(
            f"{backbone.name}, {backbone.num_layers} layers, width {backbone.hidden_size}, {heads}"
            f"newest {config.model.max_length} events, {config.model.inputs.fusion.replace('_', ' ')} fusion"
        ),
        "Loss": Cell(config.model.loss.name.replace("_", " ")),
        "Seed": Cell(str(config.seed), config.seed),
    }
    if contents.memory is not None:
        facts["Trained parameters"] = counted(contents.memory["trainable"])
    if contents.parameters is not None:
        facts["Numbers saved with the run"] = counted(contents.parameters)  # vectors of text and attributes among them
    if contents.items is not None:
        facts["Commands with an id"] = counted(sum(name is not None for name in contents.items.names))
    for key, name in (
        ("seconds", "Training time"),
        ("cpu_seconds", "CPU time of training"),
        ("validation_cpu_seconds", "CPU time of validation"),
    ):
        if isinstance(history.get(key), int | float):
            facts[name] = Cell(duration(history[key]), history[key])
    rate = history.get("label_positions_per_cpu_second")
    if isinstance(rate, int | float):
        facts["Label positions per CPU second"] = Cell(count(rate), rate)
    rows = [[Cell(name), cell] for name, cell in facts.items()]
    tables = [Table("The run", ["Fact", "Value"], rows, style="facts")]
    notes = []
    if contents.environment is None:
        notes.append("environment.json is missing, so versions are not known.")
    else:
        tables.append(Table("The environment", ["Fact", "Value"], settings(contents.environment), style="facts"))
    if contents.parameters is None:
        notes.append("model.safetensors is missing, so what is saved is not counted.")
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    details = [("The whole configuration (config.yaml)", text)]
    return Section("facts", "Facts of the run", tables=tables, notes=notes, details=details)
