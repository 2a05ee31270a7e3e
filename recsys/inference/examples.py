"""A few histories with what came next and what the model would have said."""

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
import polars as pl

from recsys.data.dataset import SequenceDataset
from recsys.errors import InputError
from recsys.inference.recommend import next_items
from recsys.inference.run import LoadedRun, load

UNKNOWN = "(unknown)"


@dataclass(frozen=True)
class Example:
    """One history.

    Attributes:
        session_id: the session.
        position: events before the predicted one.
        history: names of the newest of them, oldest first.
        truth: name of the item that came next.
        top: the model's most likely names with their probabilities.
    """

    session_id: str
    position: int
    history: list[str]
    truth: str
    top: list[tuple[str, float]]

    def __str__(self) -> str:
        before = "… " if self.position > len(self.history) else ""
        lines = [f"session {self.session_id}, after {self.position:,} events: {before}{' > '.join(self.history)}"]
        lines.append(f"    next: {self.truth}")
        for rank, (name, probability) in enumerate(self.top, start=1):
            mark = "*" if name == self.truth else " "
            lines.append(f"  {mark} {rank}. {probability:6.1%}  {name}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Examples(Sequence[Example]):
    """Examples that print as text, show as a table in a notebook, and convert to a frame."""

    examples: list[Example]

    def __len__(self) -> int:
        return len(self.examples)

    def __iter__(self) -> Iterator[Example]:
        return iter(self.examples)

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Example]: ...

    def __getitem__(self, index: int | slice) -> Example | Sequence[Example]:
        return self.examples[index]

    def __str__(self) -> str:
        return "\n\n".join(str(e) for e in self.examples)

    def frame(self) -> pl.DataFrame:
        """One row an example: session_id, position, history, truth, top, probability (lists)."""
        rows = [
            {
                "session_id": e.session_id,
                "position": e.position,
                "history": e.history,
                "truth": e.truth,
                "top": [name for name, _ in e.top],
                "probability": [p for _, p in e.top],
            }
            for e in self.examples
        ]
        return pl.DataFrame(rows)

    def _repr_html_(self) -> str:
        rows = []
        for e in self.examples:
            top = "<br>".join(
                f"{'<b>' if n == e.truth else ''}{html.escape(n)}{'</b>' if n == e.truth else ''} {p:.1%}"
                for n, p in e.top
            )
            history = html.escape(" > ".join(e.history))
            rows.append(f"<tr><td>{history}</td><td>{html.escape(e.truth)}</td><td>{top}</td></tr>")
        head = "<tr><th>history</th><th>next</th><th>most likely</th></tr>"
        return f"<table>{head}{''.join(rows)}</table>"


def examples(
    run: LoadedRun | Path | str,
    dataset: SequenceDataset | Path | str,
    n: int = 5,
    k: int = 5,
    seed: int = 0,
    shown: int = 8,
) -> Examples:
    """Draw n sequences (each once, and one position in each) with the true next item and the model's top k.

    Args:
        run: a loaded run or its directory.
        dataset: sequences, or a sequence dataset's folder, of which the test split is taken.
        n: how many; fewer where there are not as many sequences of at least two events.
        k: length of the lists.
        seed: the same seed gives the same examples.
        shown: names of the history that are given.
    """
    loaded = run if isinstance(run, LoadedRun) else load(run)
    source = "dataset"
    if not isinstance(dataset, SequenceDataset):
        source, folder = str(dataset), Path(dataset)
        dataset = SequenceDataset.load(folder, "test", loaded.config.model.backbone.needs_times)
    loaded.require_data(dataset.schema, source)
    rows = np.flatnonzero(dataset.lengths > dataset.first_scored)
    if not len(rows):
        raise InputError(f"{source}: no sequence of at least two events to show")
    rng = np.random.default_rng(seed)
    row = rng.permutation(rows)[:n]
    # At least four events of history where there are as many: shorter ones show little.
    least = np.maximum(np.minimum(4, dataset.lengths[row] - 1), dataset.first_scored[row])
    stop = dataset.offsets[row] + rng.integers(least, dataset.lengths[row])
    ids, _, probabilities = next_items(loaded, dataset, stop, k, row=row)
    names = [UNKNOWN if name is None else name for name in loaded.item_names]
    found = []
    for i, (r, end) in enumerate(zip(row.tolist(), stop.tolist(), strict=True)):
        begin = int(dataset.offsets[r])
        history = [names[item] for item in dataset.items[max(begin, end - shown) : end]]
        top = [(names[item], float(p)) for item, p in zip(ids[i], probabilities[i], strict=True) if item >= 0]
        found.append(Example(str(dataset.keys[r]), end - begin, history, names[dataset.items[end]], top))
    return Examples(found)
