"""One step of a served bundle, as the Python backend of NVIDIA Triton loads it.

The parameter ``step`` of config.pbtxt says which: `transform` (raw columns to the graphs' inputs), `embed` and `rank`
(the two graphs), `decode` (ids to names), or `fused` (all of it in one model). Needs numpy 1 and onnxruntime, and the
files beside it. Requests that Triton hands over together run as one batch as far as that stays small; a request that
cannot be read is answered with an error of one line, and the others of its batch are answered all the same.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # the copies beside this file, whatever else is installed

import integrity  # noqa: E402
import transform  # noqa: E402
import wire  # noqa: E402

Array = npt.NDArray[Any]
Tensors = dict[str, Array]
BUNDLE = HERE / "bundle"


class Step(Protocol):
    """Answers requests: tensors by name in, tensors by name (or what is wrong with that request) out."""

    def answer(self, requests: Sequence[Tensors]) -> list[Tensors | Exception]:
        """One answer a request, in their order."""


class Encode:
    """Raw columns to the graphs' inputs; columns of one value a session as ``[B, 1]``."""

    def __init__(self, manifest: Mapping[str, Any]) -> None:
        self.transform = transform.Transform.load(BUNDLE)
        once = {column.source for column in self.transform.columns if column.once}
        self.fields = wire.fields_of(manifest["requests"], once)

    def answer(self, requests: Sequence[Tensors]) -> list[Tensors | Exception]:
        """`k` is among the outputs: at most the number of items."""
        return [self._one(tensors) for tensors in requests]

    def _one(self, tensors: Tensors) -> Tensors | Exception:
        try:
            sessions, wanted, removed = wire.from_tensors(self.fields, tensors)
            wire.check_lists(self.fields, sessions, self.transform.max_length)
            batch = self.transform.collate(self.transform.encode_all(sessions, removed), wanted)
        except (transform.RequestError, wire.WireError) as error:
            return error
        return {name: values[:, None] if values.ndim == 1 else values for name, values in batch.items()}


class Run:
    """One graph; requests of any lengths run together, padded on the right, and are cut apart again."""

    def __init__(self, manifest: Mapping[str, Any], name: str, threads: int) -> None:
        import graphs  # here, since the steps without a graph need not hold onnxruntime in memory

        self.graph = graphs.Graph(BUNDLE, name, threads=threads)
        described = manifest["graphs"][name]
        shapes = {n: described["inputs"][n]["shape"] for n in self.graph.inputs}
        self.ranks = {n: len(shape) for n, shape in shapes.items()}
        self.lists = [n for n, r in self.ranks.items() if r == 3 and described["inputs"][n]["dtype"] == "int64"]
        self.timed = next(n for n, shape in shapes.items() if shape[1:2] == ["time"])
        # Layers of 8 bits take one scale for all that runs together, so company would change a request's scores.
        self.alone = manifest["int8"] is not None

    def answer(self, requests: Sequence[Tensors]) -> list[Tensors | Exception]:
        """Each request's rows, as long as its own rows are and with as many items as it wants itself."""
        answers: list[Tensors | Exception] = []
        group: list[Tensors] = []
        for tensors in requests:
            if group and (self.alone or self._values([*group, tensors]) > wire.MOST_VALUES):
                answers += self._together(group)
                group = []
            group.append(tensors)
        return answers + self._together(group)

    def _values(self, requests: Sequence[Tensors]) -> int:
        """Of the largest column of lists, were these one batch: a long list makes the lists of all as long."""
        return max((prod(self._shape(name, requests)) for name in self.lists), default=0)

    def _shape(self, name: str, requests: Sequence[Tensors]) -> tuple[int, ...]:
        shapes = [tensors[name].shape for tensors in requests]
        return (sum(s[0] for s in shapes), *(max(sizes) for sizes in zip(*(s[1:] for s in shapes), strict=True)))

    def _together(self, requests: Sequence[Tensors]) -> list[Tensors | Exception]:
        batch = {name: self._joined(name, requests) for name in self.graph.inputs}
        found = self.graph.run(batch)
        if len(requests) == 1:
            return [found]
        answers: list[Tensors | Exception] = []
        start = 0
        for tensors in requests:
            rows = slice(start, start + len(tensors[self.graph.inputs[0]]))
            start = rows.stop
            answers.append({name: self._own(name, values[rows], tensors) for name, values in found.items()})
        return answers

    def _joined(self, name: str, requests: Sequence[Tensors]) -> Array:
        parts = [tensors[name].reshape(-1) if self.ranks[name] == 1 else tensors[name] for tensors in requests]
        if len(parts) == 1:
            return parts[0]
        if self.ranks[name] == 1:
            return np.concatenate(parts)
        sizes = self._shape(name, requests)[1:]
        padded = []
        for part in parts:
            room = [(0, 0), *((0, size - part.shape[d + 1]) for d, size in enumerate(sizes))]
            # Times must not run backwards, so theirs is the last of each row.
            mode: Any = "edge" if name == transform.TIMES else "constant"
            padded.append(part if part.shape[1:] == sizes else np.pad(part, room, mode=mode))
        return np.concatenate(padded)

    def _own(self, name: str, values: Array, tensors: Tensors) -> Array:
        if name == "vectors":
            return values[:, : tensors[self.timed].shape[1]]
        return values[:, : int(tensors[transform.K].max())]


class Decode:
    """Ids to names; the scores of an answer need nothing done to them."""

    def __init__(self, names: Sequence[str | None]) -> None:
        self.names = [(name or "").encode() for name in names] + [b""]  # the last one's is -1

    def answer(self, requests: Sequence[Tensors]) -> list[Tensors | Exception]:
        """`items`, empty where there is none."""
        return [{wire.ITEMS: self._named(tensors["ids"])} for tensors in requests]

    def _named(self, ids: Array) -> Array:
        rows = [[self.names[i] for i in row] for row in ids.tolist()]
        return np.array(rows, dtype=object).reshape(ids.shape)


class Fused:
    """All steps in one model, over the one graph that is both of theirs."""

    def __init__(self, manifest: Mapping[str, Any], threads: int) -> None:
        self.encode, self.run = Encode(manifest), Run(manifest, "fused", threads)
        self.decode = Decode(self.encode.transform.names)

    def answer(self, requests: Sequence[Tensors]) -> list[Tensors | Exception]:
        """`items`, `scores`, `probabilities`."""
        answers: list[Tensors | Exception] = list(self.encode.answer(requests))
        places = [n for n, found in enumerate(answers) if not isinstance(found, Exception)]
        batches: list[Any] = [answers[n] for n in places]
        if batches:
            ranked: list[Any] = self.run.answer(batches)
            named: list[Any] = self.decode.answer(ranked)
            for place, found, items in zip(places, ranked, named, strict=True):
                answers[place] = {**found, **items}
        return answers


def make_step(name: str, manifest: Mapping[str, Any], threads: int) -> Step:
    """The step of that name; `threads` compute its graph."""
    if name == "transform":
        return Encode(manifest)
    if name == "decode":
        return Decode(transform.Transform.load(BUNDLE).names)
    return Fused(manifest, threads) if name == "fused" else Run(manifest, name, threads)


class TritonPythonModel:
    """What Triton calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Check the bundle's hashes and load the step; an error refuses the model."""
        if int(np.__version__.split(".")[0]) != 1:
            # The stub of this server reads numpy 2's tensors as garbage, without a word.
            raise RuntimeError(f"numpy {np.__version__} in the environment of the server; it needs numpy 1.26")
        config = json.loads(args["model_config"])
        name, threads = (config["parameters"][key]["string_value"] for key in ("step", "threads"))
        self.step = make_step(name, integrity.check(BUNDLE), int(threads))
        self.outputs = [(o["name"], pb_utils.triton_string_to_numpy(o["data_type"])) for o in config["output"]]

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response a request, in their order."""
        try:
            answers = self.step.answer([self._read(request) for request in requests])
        except Exception as error:  # a traceback in the answer would show the caller this machine's folders
            if len(requests) > 1:  # the others of the batch shall not pay for the one that made it fail
                return [response for request in requests for response in self.execute([request])]
            pb_utils.Logger.log_error(f"{type(error).__name__}: {error}")
            failed = pb_utils.TritonError("the model failed; the server's log says why", pb_utils.TritonError.INTERNAL)
            return [pb_utils.InferenceResponse(error=failed) for _ in requests]
        return [self._response(answer) for answer in answers]

    def _read(self, request: Any) -> Tensors:
        return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}

    def _response(self, answer: Tensors | Exception) -> Any:
        if isinstance(answer, Exception):
            error = pb_utils.TritonError(str(answer), pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(error=error)
        tensors = [pb_utils.Tensor(n, np.ascontiguousarray(answer[n], dtype=dtype)) for n, dtype in self.outputs]
        return pb_utils.InferenceResponse(tensors)
