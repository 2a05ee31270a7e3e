"""ONNX graphs of a bundle with its item tables bound. Needs numpy and onnxruntime only, and nothing of `recsys`.

A graph's inputs that begin with ``table.`` are read from ``tables/<name>.npy`` beside it; the others come with each
request. One thread each unless told otherwise: several graphs side by side answer more requests than one on all cores.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

Array = npt.NDArray[Any]
TABLE = "table."
QUIET = 3
"""Severity from which onnxruntime writes to the log: errors."""


class Tables:
    """The item tables of a bundle, mapped once for all its graphs."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._read: dict[str, tuple[Array, onnxruntime.OrtValue]] = {}

    def bind(self, name: str) -> onnxruntime.OrtValue:
        """The table that the graph input ``table.<name>`` reads.

        Raises:
            ValueError: a name that is none of a table, such as a path.
        """
        if name not in self._read:
            if not name.removeprefix(TABLE).isidentifier():
                raise ValueError(f"graph input {name!r} names no table; do not use this bundle")
            file = self.folder / "tables" / f"{name.removeprefix(TABLE)}.npy"
            # Mapped, so that several processes hold the table once; the value shares the array's memory.
            values = np.ascontiguousarray(np.load(file, mmap_mode="r", allow_pickle=False))
            self._read[name] = (values, onnxruntime.OrtValue.ortvalue_from_numpy(values))
        return self._read[name][1]


class Graph:
    """One graph: `embed`, `rank` or `fused`.

    Args:
        folder: of the bundle.
        name: of the graph.
        tables: those of the bundle; None: read for this graph alone.
        threads: that work on one request.
    """

    def __init__(self, folder: Path | str, name: str, tables: Tables | None = None, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = QUIET
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        file = Path(folder) / f"{name}.onnx"
        self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        tables = tables or Tables(folder)
        names = [i.name for i in self.session.get_inputs()]
        self.tables = {n: tables.bind(n) for n in names if n.startswith(TABLE)}
        self.inputs = [n for n in names if n not in self.tables]
        self.outputs = [o.name for o in self.session.get_outputs()]

    def run(self, batch: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name. `batch` may hold more than the graph reads; KeyError names what it lacks."""
        feeds = {name: batch[name] for name in self.inputs}
        return dict(zip(self.outputs, self.session.run(self.outputs, {**feeds, **self.tables}), strict=True))
