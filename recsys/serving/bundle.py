"""A bundle in memory: requests in, names with scores out. The one path of the local server, `verify` and the tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from recsys.errors import InputError, one_line
from recsys.serving import integrity
from recsys.serving.graphs import Graph, Tables
from recsys.serving.transform import RequestError, Transform

Path_ = Literal["fused", "ensemble"]


@dataclass(frozen=True)
class Answer:
    """The most likely next items of one session, best first; equal scores by lowest id."""

    items: list[str]
    scores: list[float]
    probabilities: list[float]


class Bundle:
    """What `recsys export` wrote, ready to answer.

    Args:
        folder: of the bundle.
        manifest: what `integrity.check` gave for it.
        path: `fused` runs one graph, `ensemble` the two that Triton's ensemble runs; the answers are the same.
        threads: that work on one request.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any], path: Path_ = "fused", threads: int = 1) -> None:
        self.folder, self.manifest = folder, manifest
        self.transform = Transform.load(folder)
        tables = Tables(folder)
        names = ("fused",) if path == "fused" else ("embed", "rank")
        self.graphs = [Graph(folder, name, tables, threads) for name in names]
        items = len(self.transform.names)
        for name, table in (pair for graph in self.graphs for pair in graph.tables.items()):
            if items not in table.shape():
                raise ValueError(f"'{name}' has shape {table.shape()}, the vocabulary {items} ids")

    @classmethod
    def open(cls, folder: Path | str, path: Path_ = "fused", threads: int = 1) -> Self:
        """Check every file's hash, then load.

        Raises:
            InputError: the folder is no bundle, or not what was exported.
        """
        folder = Path(folder)
        try:
            return cls(folder, integrity.check(folder), path, threads)
        except integrity.BundleError as error:
            raise InputError(str(error)) from error
        except (ValueError, KeyError, TypeError, RuntimeError, OSError) as error:
            raise InputError(f"{folder}: cannot be loaded: {one_line(error)}; export the run again") from error

    def recommend(
        self,
        requests: Sequence[Mapping[str, Any]],
        k: int | Sequence[int] = 5,
        *,
        remove_seen: bool | Sequence[bool] = False,
    ) -> list[Answer]:
        """The k most likely next items of each session (`recsys.serving.transform.Transform` says what one holds).

        A list is shorter than k where the catalogue has fewer items (or fewer that the session does not hold yet,
        with `remove_seen`). `k` and `remove_seen` are those of all sessions or one of each.

        Raises:
            InputError: a request cannot be read, k is below 1, or there are not as many as sessions.
        """
        transform = self.transform
        removed = [remove_seen] * len(requests) if isinstance(remove_seen, bool) else list(remove_seen)
        if len(removed) != len(requests):
            raise InputError(f"{len(removed)} values of remove_seen for {len(requests)} sessions; give one a session")
        try:
            sessions = transform.encode_all(requests, removed)
            batch = transform.collate(sessions, k)
        except RequestError as error:
            raise InputError(str(error)) from error
        for graph in self.graphs:
            batch |= graph.run(batch)
        return [Answer(*row) for row in transform.decode(batch["ids"], batch["scores"], batch["probabilities"])]
