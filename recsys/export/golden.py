"""Golden requests: made-up sessions over the run's vocabularies, with the answers that the run gives offline."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from recsys.inference import LoadedRun, recommend
from recsys.schema import ITEM_ID, SESSION_ID
from recsys.serving.bundle import Answer
from recsys.serving.transform import Transform

START = 1_600_000_000_000_000  # microseconds
UNKNOWN = "golden: nothing that training has seen"
_TYPES: dict[str, Any] = {
    "time": pl.Int64,
    "text": pl.String,
    "texts": pl.List(pl.String),
    "number": pl.Float64,
}


def make_requests(transform: Transform, vocabularies: dict[str, list[str]], count: int, seed: int = 0) -> list[Any]:
    """Sessions of different lengths, 1 and more than the model reads among them; every other leaves out seen items.

    The second of them holds unknown values only.
    """
    rng = np.random.default_rng(seed)
    longest = transform.max_length
    lengths = [1, 3, 2, longest, longest + 3, *rng.integers(1, longest + 1, count).tolist()][:count]
    requests = []
    for n, length in enumerate(lengths):
        columns: dict[str, list[Any]] = {}
        for name, kind in transform.raw.items():
            columns[name] = _values(rng, kind, vocabularies.get(name, []), length, unknown=n == 1)
            once = [c for c in transform.columns if c.source == name and c.once]
            if once:
                columns[name] = columns[name][:1] * length
        if n != 1:
            columns[transform.item] = rng.choice(vocabularies[transform.item], length).tolist()
        requests.append({"columns": columns, "remove_seen": n % 2 == 1})
    return requests


def offline_answers(run: LoadedRun, transform: Transform, requests: Sequence[Any], k: int) -> list[Answer]:
    """What `recsys recommend` lists for the requests."""
    answers: dict[int, Answer] = {}
    for seen in (False, True):
        chosen = [n for n, request in enumerate(requests) if request["remove_seen"] is seen]
        if not chosen:
            continue
        frame = pl.concat([_events(run, transform, requests[n]["columns"], f"{n:06d}") for n in chosen])
        lists = recommend(run, frame, k=k, seen="remove" if seen else "keep")
        for n in chosen:
            rows = lists.filter(pl.col(SESSION_ID) == f"{n:06d}")
            values = (rows[name].to_list() for name in (ITEM_ID, "score", "probability"))
            answers[n] = Answer(*values)
    return [answers[n] for n in range(len(requests))]


def _values(rng: np.random.Generator, kind: str, known: Sequence[str], length: int, unknown: bool) -> list[Any]:
    """Values of a column for each event; now and then there is none."""
    if kind == "time":
        return (START + rng.integers(1, 90_000_000, length).cumsum()).tolist()
    gone = rng.random(length) < 0.1
    if kind == "number":
        return [None if g else float(v) for g, v in zip(gone, rng.integers(0, 20, length), strict=True)]
    if unknown or not known:
        return [[UNKNOWN] if kind == "texts" else UNKNOWN] * length
    if kind == "texts":
        return [None if g else rng.choice(known, int(rng.integers(0, 4))).tolist() for g in gone]
    return [None if g else str(v) for g, v in zip(gone, rng.choice(known, length), strict=True)]


def _events(run: LoadedRun, transform: Transform, columns: dict[str, list[Any]], session: str) -> pl.DataFrame:
    """A request as events; columns that the workflow asks for and the model does not read are null."""
    frame = pl.DataFrame(
        {name: pl.Series(values, dtype=_TYPES[transform.raw[name]]) for name, values in columns.items()}
    )
    absent = [name for name in run.workflow.plan.required if name not in (SESSION_ID, *columns)]
    return frame.with_columns(pl.lit(session).alias(SESSION_ID), *(pl.lit(None).alias(name) for name in absent))
