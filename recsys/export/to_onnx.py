"""Graphs of PyTorch as ONNX files that share their weights."""

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import ModelProto, TensorProto
from torch import Tensor, nn

WEIGHTS = "weights.data"
"""File of all graphs' larger tensors; each is in it once."""
OPSET = 23
"""Of ONNX's operators: the first with attention, rotary positions and root mean square norms."""
LEAST_BYTES = 256
"""Smaller tensors stay in the graph."""
ALIGNMENT = 64
_AGAIN = "again."


@dataclass(frozen=True)
class Input:
    """An input of a graph: its name, an example, and the name of each dimension (None: fixed)."""

    name: str
    example: Tensor
    dimensions: tuple[str | None, ...]


@dataclass(frozen=True)
class Output:
    """An output of a graph, and the name of each dimension (None: fixed)."""

    name: str
    dimensions: tuple[str | None, ...]


@dataclass(frozen=True)
class Signature:
    """Inputs in the order of the arguments, and outputs."""

    inputs: Sequence[Input]
    outputs: Sequence[Output]
    arguments: Callable[[Sequence[Any]], tuple[Any, ...]] = field(default=tuple)
    """The inputs' values (or anything one an input) as `forward` takes them."""


def fixed(values: Tensor) -> nn.Parameter:
    """A tensor that a graph holds and that nothing trains."""
    return nn.Parameter(values.detach().clone(), requires_grad=False)


def to_onnx(module: nn.Module, signature: Signature, translations: Mapping[Any, Callable[..., Any]]) -> ModelProto:
    """Export through `torch.export`; dimensions that have a name are dynamic."""
    dynamic = torch.export.Dim.DYNAMIC
    shapes = [{n: dynamic for n, name in enumerate(i.dimensions) if name is not None} for i in signature.inputs]
    examples = signature.arguments([i.example for i in signature.inputs])
    with _quiet(), torch.no_grad():
        program = torch.export.export(module, examples, dynamic_shapes=signature.arguments(shapes), strict=False)
        exported = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=[i.name for i in signature.inputs],
            output_names=[o.name for o in signature.outputs],
            custom_translation_table=dict(translations),
        )
    assert exported is not None
    model: ModelProto = exported.model_proto
    _name_dimensions(model, signature)
    return model


def merged(first: ModelProto, second: ModelProto, joint: str) -> ModelProto:
    """One graph whose second half reads what the first half gives as `joint`, and inputs of one name once."""
    one, two = (
        onnx.compose.add_prefix(model, f"{n}/", rename_inputs=False, rename_outputs=False)
        for n, model in enumerate((first, second))
    )
    shared = {i.name for i in one.graph.input} & {i.name for i in two.graph.input}
    _rename_inputs(two, {name: _AGAIN + name for name in shared})  # merge_models refuses equal names
    model: ModelProto = onnx.compose.merge_models(one, two, io_map=[(joint, joint)])
    kept = [i for i in model.graph.input if not i.name.startswith(_AGAIN)]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    _rename_inputs(model, {_AGAIN + name: name for name in shared})
    return model


def _rename_inputs(model: ModelProto, names: Mapping[str, str]) -> None:
    for value in model.graph.input:
        value.name = names.get(value.name, value.name)
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = names.get(name, name)


def quantised(model: ModelProto) -> ModelProto:
    """Weights of matrix products in 8 bits, what they meet quantised when it is known (dynamic quantisation).

    Of the 8 bits a weight uses 7: on a processor without VNNI, sums of two full products overflow 16 bits and would be
    cut off without a word. It costs nothing in time.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory(prefix="recsys.") as folder, _quiet():
        path = Path(folder) / "quantised.onnx"
        settings = {"weight_type": QuantType.QInt8, "per_channel": True, "reduce_range": True}
        quantize_dynamic(model, path, op_types_to_quantize=["MatMul"], **settings)
        return onnx.load(path)


def save_all(models: Mapping[str, ModelProto], folder: Path) -> None:
    """Write ``<name>.onnx`` for each model, and `WEIGHTS` beside them."""
    places: dict[tuple[str, int], int] = {}
    with (folder / WEIGHTS).open("wb") as stream:
        for model in models.values():
            for tensor in _tensors(model):
                data = tensor.raw_data
                if len(data) < LEAST_BYTES:
                    continue
                key = (sha256(data).hexdigest(), len(data))
                if key not in places:
                    stream.write(b"\0" * (-stream.tell() % ALIGNMENT))
                    places[key] = stream.tell()
                    stream.write(data)
                _put_outside(tensor, places[key], len(data))
    for name, model in models.items():
        (folder / f"{name}.onnx").write_bytes(model.SerializeToString(deterministic=True))


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.STRING:
            if not tensor.HasField("raw_data"):
                array = onnx.numpy_helper.to_array(tensor)
                name = tensor.name
                tensor.CopyFrom(onnx.numpy_helper.from_array(array, name))
            yield tensor


def _put_outside(tensor: TensorProto, offset: int, length: int) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for name, value in (("location", WEIGHTS), ("offset", str(offset)), ("length", str(length))):
        entry = tensor.external_data.add()
        entry.key, entry.value = name, value


def _name_dimensions(model: ModelProto, signature: Signature) -> None:
    """Names that a person reads instead of the exporter's; and no traces of the machine's paths."""
    named: dict[str, Sequence[str | None]] = {i.name: i.dimensions for i in signature.inputs}
    named |= {o.name: o.dimensions for o in signature.outputs}
    for value in (*model.graph.input, *model.graph.output):
        del value.metadata_props[:]
        for size, name in zip(value.type.tensor_type.shape.dim, named[value.name], strict=True):
            if name is not None:
                size.dim_param = name
    del model.graph.value_info[:]
    del model.graph.metadata_props[:]
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters report their progress, and warn of what does not concern a bundle."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
