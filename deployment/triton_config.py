"""config.pbtxt of the models in a Triton repository, as text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Signature = tuple[Sequence["Tensor"], Sequence["Tensor"]]


@dataclass(frozen=True)
class Tensor:
    """An input or output of a model; `dims` without the batch, -1 where any size will do; `flat`: the model itself
    reads or gives one number a row, without a dimension of its own."""

    name: str
    type: str
    dims: tuple[int, ...]
    optional: bool = False
    flat: bool = False

    def text(self, *, ragged: bool = False) -> str:
        """One entry of ``input`` or ``output``."""
        more = " optional: true" if self.optional else ""
        if self.flat:
            more += " reshape: { shape: [ ] }"
        if ragged and self.dims != (1,):
            more += " allow_ragged_batch: true"
        return f"  {{ name: {_quoted(self.name)} data_type: {self.type} dims: {_list(self.dims)}{more} }}"


def model(
    name: str,
    backend: str,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    *,
    warm: Sequence[Mapping[str, tuple[Array, str]]],
    instances: int,
    threads: int,
    most: int,
    delay: int | None,
) -> str:
    """A step in the `python` or the `onnxruntime` backend.

    Args:
        name: of the step.
        backend: that runs it. In `python` requests of different lengths may form one batch.
        inputs, outputs: its tensors.
        warm: requests that run before the model is ready, by tensor: its values, and its file in ``warmup/``.
        instances: processes side by side.
        threads: of each of them.
        most: sessions in a batch.
        delay: microseconds for which a request may wait for others to be joined with; None: none is, which saves
            Triton the thread that joins them.
    """
    python = backend == "python"
    if python:
        parameters = {"step": name, "threads": str(threads), "FORCE_CPU_ONLY_INPUT_TENSORS": "yes"}
    else:
        parameters = {"intra_op_thread_count": str(threads), "inter_op_thread_count": "1"}
    types = {tensor.name: tensor.type for tensor in inputs}
    parts = [
        f"name: {_quoted(name)}",
        f"backend: {_quoted(backend)}",
        f"max_batch_size: {most}",
        _many("input", [tensor.text(ragged=python) for tensor in inputs]),
        _many("output", [tensor.text() for tensor in outputs]),
        f"instance_group [ {{ kind: KIND_CPU count: {instances} }} ]",
        *([] if delay is None else [f"dynamic_batching {{ max_queue_delay_microseconds: {delay} }}"]),
        "version_policy { latest { num_versions: 1 } }",
        *(_warm_up(n, types, request) for n, request in enumerate(warm)),
        *(_parameter(key, value) for key, value in parameters.items()),
    ]
    return "\n".join(parts) + "\n"


def ensemble(name: str, signature: Signature, steps: Mapping[str, Signature], most: int) -> str:
    """The steps one after another; what one of them gives under the name of an output of the whole is that output."""
    inputs, outputs = signature
    first, given_on = next(iter(steps)), {t.name for t in outputs}
    parts = [
        f"name: {_quoted(name)}",
        'platform: "ensemble"',
        f"max_batch_size: {most}",
        _many("input", [tensor.text() for tensor in inputs]),
        _many("output", [tensor.text() for tensor in outputs]),
        "version_policy { latest { num_versions: 1 } }",
    ]
    told = []
    for step, (given, found) in steps.items():
        ins = [_map("input", t.name, t.name if step == first else f"step.{t.name}") for t in given]
        outs = [_map("output", t.name, t.name if t.name in given_on else f"step.{t.name}") for t in found]
        told.append("\n".join([f"  {{ model_name: {_quoted(step)} model_version: -1", *ins, *outs, "  }"]))
    return "\n".join([*parts, "ensemble_scheduling {", _many("step", told), "}"]) + "\n"


def _warm_up(number: int, types: Mapping[str, str], request: Mapping[str, tuple[Array, str]]) -> str:
    lines = [f'model_warmup {{ name: "golden {number + 1}" batch_size: 1']
    for name, (values, file) in request.items():
        facts = f"data_type: {types[name]} dims: {_list(np.shape(values)[1:])} input_data_file: {_quoted(file)}"
        lines.append(f"  inputs {{ key: {_quoted(name)} value {{ {facts} }} }}")
    return "\n".join([*lines, "}"])


def _many(field: str, entries: Sequence[str]) -> str:
    return f"{field} [\n" + ",\n".join(entries) + "\n]"


def _map(side: str, key: str, value: str) -> str:
    return f"    {side}_map {{ key: {_quoted(key)} value: {_quoted(value)} }}"


def _parameter(key: str, value: str) -> str:
    return f"parameters {{ key: {_quoted(key)} value {{ string_value: {_quoted(value)} }} }}"


def _list(numbers: Sequence[int]) -> str:
    return f"[ {', '.join(map(str, numbers))} ]"


def _quoted(text: str) -> str:
    """A string of the text format of protocol buffers; all but plain characters as octal bytes."""
    plain = {byte for byte in range(32, 127)} - set(b'"\\')
    return '"' + "".join(chr(b) if b in plain else f"\\{b:03o}" for b in text.encode()) + '"'
