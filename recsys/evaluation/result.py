"""The result of an evaluation: figures, predictions, and how they show themselves."""

import html
from dataclasses import dataclass
from typing import Any

import polars as pl

LABELS = {"model": "model", "popularity": "popularity", "markov1": "Markov-1", "markov2": "Markov-2"}
LABELS |= {"last_item": "last item"}
WHERE = {"all": "all positions", "last": "last position of each session"}


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Figures of a model beside its baselines.

    Attributes:
        metrics: what metrics.json holds: `protocol` and `splits`.
        predictions: one row a scored position: row, session_id, group, position (events before it), is_last, target
            (item id), top1, and rank_<name> of the model and each baseline (0: a miss at every k).
        split: which split was measured.
    """

    metrics: dict[str, Any]
    predictions: pl.DataFrame
    split: str

    @property
    def figures(self) -> dict[str, dict[str, dict[str, Any]]]:
        """By positions (`all`, `last`), ranker and metric."""
        found: dict[str, dict[str, dict[str, Any]]] = self.metrics["splits"][self.split]["positions"]
        return found

    def table(self, positions: str | None = None) -> pl.DataFrame:
        """One row a ranker: positions, model, every metric, and <metric>_low and <metric>_high of its interval.

        `positions`: `all` or `last`; None gives both, one below the other.
        """
        rows = []
        for where, rankers in self.figures.items():
            if positions not in (None, where):
                continue
            for name, figures in rankers.items():
                row: dict[str, Any] = {"positions": where, "model": name}
                for metric, value in figures.items():
                    if metric.endswith("_interval"):
                        stem = metric.removesuffix("_interval")
                        row[f"{stem}_low"], row[f"{stem}_high"] = value
                    else:
                        row[metric] = value
                rows.append(row)
        return pl.DataFrame(rows)

    def summary(self) -> str:
        """One line: what was measured, and the choices that its figures depend on."""
        protocol = self.metrics["protocol"]
        counts = protocol["counts"][self.split]
        unknown, total = counts["unknown_targets"]["all"], counts["positions"]["all"]
        workflows = protocol["vocabulary"]["workflows"]
        made_of = f" ({protocol['vocabulary']['commands']:,} commands, {workflows:,} workflows)" if workflows else ""
        parts = [
            f"{self.split}: {total:,} positions of {counts['scored_sessions']:,} sessions",
            f"{protocol['catalogue']:,} candidates{made_of}, newest {protocol['max_length']} events",
            f"seen items {'kept' if protocol['seen'] == 'keep' else 'removed'}, ties count against the model",
            f"{unknown:,} unknown targets are misses",
        ]
        if protocol["bootstrap"]["samples"]:
            parts.append(f"95 % intervals over {counts['groups']:,} groups ({protocol['groups']})")
        return "; ".join(parts)

    def __str__(self) -> str:
        lines = [self.summary()]
        for where, rankers in self.figures.items():
            header, rows = self._cells(rankers)
            widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
            lines += ["", WHERE[where]]
            for row in [header, *rows]:
                cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
                lines.append("  " + "  ".join(cells))
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        parts = [f"<p>{html.escape(self.summary())}</p>"]
        for where, rankers in self.figures.items():
            header, rows = self._cells(rankers)
            head = "".join(f"<th>{html.escape(c)}</th>" for c in header)
            body = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in rows)
            parts.append(f"<table><caption>{WHERE[where]}</caption><tr>{head}</tr>{body}</table>")
        return "".join(parts)

    def _cells(self, rankers: dict[str, dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
        """Header and rows of text; only the largest k's metrics carry their intervals, to stay readable."""
        names = [m for m in next(iter(rankers.values())) if _is_shown(m)]
        largest = max(self.metrics["protocol"]["ks"])
        header = ["", *(_title(m) for m in names)]
        rows = []
        for ranker, figures in rankers.items():
            cells = [LABELS.get(ranker, ranker)]
            for metric in names:
                cell = f"{figures[metric]:.4f}"
                interval = figures.get(f"{metric}_interval")
                if interval and metric in (f"recall@{largest}", f"ndcg@{largest}"):
                    cell += f" [{interval[0]:.3f}, {interval[1]:.3f}]"
                cells.append(cell)
            rows.append(cells)
        return header, rows


def _is_shown(metric: str) -> bool:
    """Recall at every k, NDCG at k above 1 (at 1 it is recall), MRR and coverage; the table method has the rest."""
    hidden = ("mrr@", "mean_reciprocal")
    return not (metric.endswith("_interval") or metric == "ndcg@1" or metric.startswith(hidden))


def _title(metric: str) -> str:
    name, at, k = metric.partition("@")
    titles = {"recall": "Recall", "ndcg": "NDCG", "mrr": "MRR", "coverage": "Coverage"}
    return f"{titles.get(name, name)}{at}{k}"
