"""Pretrained models of others: where their files are, what they hold (a hash), their architecture and weights."""

import hashlib
from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.utils import cached_file, logging

from recsys.backbones.shapes import NO_WORDS
from recsys.errors import ConfigError, one_line
from recsys.runtime import sha256_file

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""What `transformers` looks for, in its order; an index names the files."""
NO_STATES = {"use_cache": False}
"""Whole sequences are read at once, so nothing is kept for a next event."""


class Source(NamedTuple):
    """A folder or hub name, and the GGUF file in it where that is what the weights stand in."""

    name: str
    gguf: str | None

    @property
    def options(self) -> dict[str, Any]:
        """For `from_pretrained`."""
        return {} if self.gguf is None else {"gguf_file": self.gguf}


def find(source: str) -> Source:
    """What `pretrained` names: a folder, a GGUF file, a folder with one, or a name on the hub.

    Raises:
        ConfigError: a folder holds several GGUF files and no other weights.
    """
    path = Path(source)
    if path.is_file() and path.suffix == ".gguf":
        return Source(str(path.parent), path.name)
    if not path.is_dir() or any((path / name).is_file() for name in WEIGHTS):
        return Source(source, None)
    files = sorted(file.name for file in path.glob("*.gguf"))
    if len(files) > 1:
        raise ConfigError(f"model.backbone.pretrained: {source} holds {', '.join(files)}; name one of them")
    return Source(source, files[0] if files else None)


def weight_files(source: str) -> list[Path]:
    """The files that hold the weights, by name; of a hub name, those in the local cache.

    Raises:
        ConfigError: there are none.
    """
    name, gguf = find(source)
    if gguf is not None:
        return [Path(name) / gguf]
    for first in WEIGHTS:
        try:
            found = cached_file(name, first, _raise_exceptions_for_missing_entries=False)
        except OSError as error:
            raise ConfigError(f"{_where(source)}: no weights that transformers can read ({one_line(error)})") from error
        if found is not None:
            return _shards(source, Path(found))
    raise ConfigError(f"{_where(source)}: no weights that transformers can read (none of {', '.join(WEIGHTS)})")


def _shards(source: str, found: Path) -> list[Path]:
    """The files that an index names, or the one file itself."""
    if found.suffix != ".json":
        return [found]
    from transformers.utils.hub import get_checkpoint_shard_files

    files, _ = get_checkpoint_shard_files(find(source).name, str(found))
    return sorted(Path(file) for file in files)


def fingerprint(source: str) -> str:
    """SHA-256 over the SHA-256 of each file of weights, in the order of their names."""
    digest = hashlib.sha256()
    for file in weight_files(source):
        stat = file.stat()
        digest.update(f"{_digest(file, stat.st_size, stat.st_mtime_ns)}\n".encode())
    return digest.hexdigest()


@cache
def _digest(file: Path, size: int, changed: int) -> str:
    """SHA-256 of a file as it is: some gigabytes are read once in a process, not at each look."""
    return sha256_file(file)


def read_architecture(source: str) -> dict[str, Any]:
    """The configuration of a model in a folder or on the hub, as plain values; no weights are read.

    Raises:
        ConfigError: there is none, or it is not one of this version of `transformers`.
    """
    config = _read_config(source)
    values: dict[str, Any] = {**config.to_diff_dict(), "model_type": config.model_type}
    left_out = {"transformers_version", "architectures", "dtype", *NO_WORDS} - {"pad_token_id"}
    return {name: value for name, value in values.items() if name not in left_out and not name.startswith("_")}


def _read_config(source: str) -> PretrainedConfig:
    name, gguf = find(source)
    _require_gguf(source, gguf)
    try:
        if gguf is None:
            return AutoConfig.from_pretrained(name)
        stat = (Path(name) / gguf).stat()
        return deepcopy(_gguf_config(name, gguf, stat.st_size, stat.st_mtime_ns))
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{_where(source)}: no configuration of transformers ({one_line(error)})") from error


@cache
def _gguf_config(folder: str, file: str, size: int, changed: int) -> PretrainedConfig:
    """The configuration in a GGUF file as it is; reading it takes seconds, since the vocabulary stands beside it."""
    return AutoConfig.from_pretrained(folder, gguf_file=file)


def _require_gguf(source: str, gguf: str | None) -> None:
    if gguf is None:
        return
    try:
        import gguf as _  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(f"{source}: a GGUF file needs the package gguf; pip install 'recsys[llm]'") from error


def read_model(
    source: str,
    architecture: Mapping[str, Any],
    changes: Mapping[str, Any],
    *,
    dtype: torch.dtype = torch.float32,
    quantization: Any = None,
    device: torch.device | None = None,
) -> tuple[PreTrainedModel, set[str]]:
    """The model of a folder or hub name with its weights, and the names of parameters for which it has none.

    No weights are drawn first: the model is made without memory and each tensor is read (and quantised) in its turn.

    Args:
        architecture: its values, as `read_architecture` gives them.
        changes: dropouts.
        dtype: of the weights.
        quantization: a configuration of `transformers`; not for GGUF files.
        device: where quantised weights are made.

    Raises:
        ConfigError: there are no weights, or they misshape a parameter, or there is none to quantise.
    """
    logging.disable_progress_bar()
    config = _read_config(source)
    rest = {key: value for key, value in architecture.items() if key not in ("model_type", "transformers_version")}
    for key, value in {**rest, **changes, **NO_STATES}.items():
        setattr(config, key, value)
    options: dict[str, Any] = {"config": config, "dtype": dtype, "output_loading_info": True, **find(source).options}
    if quantization is not None:
        options |= {"quantization_config": quantization, "device_map": {"": device or torch.device("cpu")}}
    try:
        model, info = AutoModel.from_pretrained(find(source).name, ignore_mismatched_sizes=True, **options)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{_where(source)}: no weights that transformers can read ({one_line(error)})") from error
    for name, found, wanted in sorted(info["mismatched_keys"]):
        raise ConfigError(f"{_where(source)}: '{name}' is {list(found)}, the backbone's {list(wanted)}")
    if quantization is not None and all(parameter.is_floating_point() for parameter in model.parameters()):
        raise ConfigError(f"{_where(source)}: has no linear layer to quantise; set model.peft.quantization to none")
    return model, set(info["missing_keys"])


def require_complete(model: nn.Module, missing: set[str], source: str) -> None:
    """Raise ConfigError where one of `missing` is a parameter that the model has kept."""
    for name, _ in model.named_parameters():
        if name in missing:
            raise ConfigError(f"{_where(source)}: has no '{name}', which this backbone needs; choose another")


def _where(source: str) -> str:
    kind = "" if Path(source).exists() else " (no such folder here; a name on the hub needs a connection)"
    return f"model.backbone: {source}{kind}"
