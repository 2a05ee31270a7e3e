"""Pretrained vectors of items (text embeddings) from a file, checked against the items they are meant for.

A table is a folder with ``embeddings.npy`` (float32 ``[V, E]``, row n is the vector of item id n) and ``table.json``
(`TableFacts`), which names the vocabulary whose ids the rows follow. ``model.pretrained_text_embedding`` writes it.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from recsys.config import StrictModel, parse
from recsys.errors import InputError
from recsys.runtime import note, read_json, sha256_file

VECTORS_FILE = "embeddings.npy"
FACTS_FILE = "table.json"
_AGAIN = "run model.pretrained_text_embedding on this data again"

Count = Annotated[int, Field(ge=0)]


class TableFacts(StrictModel):
    """What a table is: whose vectors, of which texts, for which vocabulary."""

    version: Literal[1] = 1
    embedder: str
    dimensions: Count  # E
    embedder_dimensions: Count  # before they were cut to E
    template: str
    items: Count  # V, ids that name no item included
    vocabulary_sha256: str  # as the item column of the schema states it
    embeddings_sha256: str  # of the bytes of embeddings.npy
    texts: Count  # different texts that were embedded
    repeated: Count  # items whose text is an earlier item's too
    without_description: Count  # items that the data describe no further
    blank: Count  # items without any text; their row is zero
    undirected: Count  # items whose vector was zero after it was cut; their row is zero


def load_table(path: Path, num_items: int, reserved: int, vocabulary_sha256: str | None = None) -> Tensor:
    """Read the vectors of all item ids.

    Args:
        path: folder of a table, or a ``.npy`` of shape ``[V, E]`` whose row n is the vector of item id n. A ``.npy``
            without a ``table.json`` beside it is taken if its rows are as many as the ids, and a line says that no
            more than that was checked.
        num_items: V, reserved ids included.
        reserved: the first rows, which must be zero.
        vocabulary_sha256: of the items in id order, from the schema.

    Raises:
        InputError: no such file, not a two-dimensional array of finite numbers, made for another vocabulary, changed
            since, another number of rows, vectors on reserved ids.
        ConfigError: ``table.json`` lacks a fact or holds an unknown one.
    """
    file = path / VECTORS_FILE if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"{file}: no such file (model.inputs.text_table)")
    facts_file = file.with_name(FACTS_FILE)
    if file.name == VECTORS_FILE and facts_file.is_file():
        _check_facts(facts_file, file, vocabulary_sha256)
    elif path.is_dir():
        raise InputError(f"{facts_file}: no such file, so nothing tells whose vectors these are; {_AGAIN}")
    else:
        note(f"{file}: no {FACTS_FILE} beside it: the number of rows is checked, not whether they are of these items")
    values = _read(file)
    if len(values) != num_items:
        raise InputError(
            f"{file}: has {len(values)} rows, the vocabulary has {num_items} ids ({reserved} reserved); embed it again"
        )
    if not np.isfinite(values).all():
        raise InputError(f"{file}: row {int(np.argwhere(~np.isfinite(values))[0, 0])} holds a value that is not finite")
    if values[:reserved].any():
        raise InputError(f"{file}: rows 0 to {reserved - 1} are reserved ids and must be zero")
    return torch.from_numpy(values.astype(np.float32))


def describe_table(path: Path) -> dict[str, Any]:
    """What a run notes of a table that `load_table` takes: path, SHA-256 of the vectors, and its facts if it has any.

    The vectors themselves are frozen in the run's weights.
    """
    file = path / VECTORS_FILE if path.is_dir() else path
    facts_file = file.with_name(FACTS_FILE)
    known = file.name == VECTORS_FILE and facts_file.is_file()
    return {"path": str(path), "sha256": sha256_file(file), "facts": read_json(facts_file) if known else None}


def _read(file: Path) -> NDArray[np.floating]:
    try:
        values: NDArray[np.floating] = np.load(file, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{file}: not a .npy array of numbers ({error})") from error
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind != "f" or not values.shape[1]:
        found = f"{values.dtype} {list(values.shape)}" if isinstance(values, np.ndarray) else "an archive of arrays"
        raise InputError(f"{file}: expected floats of shape [items, width], found {found}")
    return values


def _check_facts(facts_file: Path, file: Path, vocabulary_sha256: str | None) -> None:
    facts = parse(TableFacts, read_json(facts_file, fix=_AGAIN), facts_file)
    if facts.vocabulary_sha256 != vocabulary_sha256:
        raise InputError(f"{facts_file}: was made for another vocabulary of {facts.items} ids; {_AGAIN}")
    if facts.embeddings_sha256 != sha256_file(file):
        raise InputError(f"{file}: is not the file that {FACTS_FILE} was written for (changed since?); {_AGAIN}")
