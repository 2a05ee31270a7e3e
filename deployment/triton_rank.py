"""The rank step as one ONNX file for Triton's onnxruntime backend, with the item tables among its weights."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from recsys.errors import InputError

NAME = "model.onnx"
"""What Triton looks for in the folder of a version."""
_TABLE = "table."


def write_rank(source: Path, folder: Path) -> None:
    """Write `rank.onnx` of a bundle so that it needs no inputs but those of a request.

    Args:
        source: the bundle; its hashes were checked.
        folder: of the model's version; the weights and tables are laid beside the file.

    Raises:
        InputError: a table is stored in an order that ONNX does not know.
    """
    import onnx

    from recsys.serving.integrity import external_files

    folder.mkdir(parents=True, exist_ok=True)
    model = onnx.load(str(source / "rank.onnx"), load_external_data=False)
    for file in external_files((source / "rank.onnx").read_bytes()):
        shutil.copyfile(source / file, folder / file)
    for value in [v for v in model.graph.input if v.name.startswith(_TABLE)]:
        model.graph.input.remove(value)
        file = f"{value.name.removeprefix(_TABLE)}.npy"
        shutil.copyfile(source / "tables" / file, folder / file)
        model.graph.initializer.append(_initializer(onnx, value.name, folder / file))
    onnx.save(model, str(folder / NAME))


def _initializer(onnx: Any, name: str, file: Path) -> Any:
    """A tensor whose data is what stands behind the header of a .npy file."""
    table = np.load(file, mmap_mode="r", allow_pickle=False)
    if not table.flags.c_contiguous or table.dtype != np.float32:
        raise InputError(f"{file.name}: {table.dtype} in another order than by rows; export the run again")
    tensor = onnx.TensorProto(name=name, data_type=onnx.TensorProto.FLOAT, dims=table.shape)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    facts = {"location": file.name, "offset": file.stat().st_size - table.nbytes, "length": table.nbytes}
    for key, value in facts.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor
