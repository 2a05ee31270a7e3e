"""What all sections of a configuration share: the strict base, units, reading YAML, errors in one line."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from recsys.errors import ConfigError, nearest, one_line

Model = TypeVar("Model", bound=BaseModel)
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Probability = Annotated[float, Field(ge=0.0, lt=1.0)]
Count = Annotated[int, Field(ge=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class StrictModel(BaseModel):
    """Base of every configuration section: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)


def require_divisor(name: str, value: int, of: str, whole: int) -> None:
    """Raise ValueError, naming a size that would do, unless `value` divides `whole`."""
    if whole % value:
        close = min((d for d in range(1, whole + 1) if whole % d == 0), key=lambda d: abs(d - value))
        raise ValueError(f"{name} ({value}) must divide {of} ({whole}); try {close}")


def parse(model: type[Model], values: object, source: object) -> Model:
    """Validate `values` as `model`; the error is one line with source, key and fix."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{source}: {_explain(model, error)}") from error


def _explain(model: type[BaseModel], error: ValidationError) -> str:
    first = error.errors()[0]
    path = [str(p) for p in first["loc"]]
    where = ".".join(path)
    if first["type"] == "extra_forbidden":
        known = _fields_at(model, path[:-1])
        return f"unknown key '{where}'{nearest(path[-1], known)}"
    message = first["msg"].removeprefix("Value error, ")
    shown = first.get("input")
    if isinstance(shown, str | int | float | bool):
        return f"{where}: {shown!r}: {message}"
    return f"{where}: {message}" if where else message


def _fields_at(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    """The keys that the section at `path` accepts."""
    for part in path:
        field = model.model_fields.get(part)
        options = [] if field is None else _models_in(field.annotation)
        if options:
            model = options[0]
    return list(model.model_fields)


def _models_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for a in getattr(annotation, "__args__", ()) for m in _models_in(a)]


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; an empty file is an empty mapping."""
    if not path.is_file():
        raise ConfigError(f"{path}: {'is a folder; name a YAML file' if path.is_dir() else 'no such file'}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {one_line(error)}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected 'key: value' lines at the top, found a {type(values).__name__}")
    return values


def override(values: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Apply ``section.key=value`` settings (values read as YAML) to a copy of `values`."""
    result: dict[str, Any] = yaml.safe_load(yaml.safe_dump(values)) or {}
    for setting in settings:
        key, found, text = setting.partition("=")
        if not found or not key:
            raise ConfigError(f"--set {setting}: expected key=value, for instance training.epochs=3")
        *parents, last = key.strip().split(".")
        section = result
        for parent in parents:
            if section.get(parent) is None:
                section[parent] = {}
            section = section[parent]
            if not isinstance(section, dict):
                raise ConfigError(f"--set {setting}: '{parent}' is not a section")
        try:
            section[last] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {setting}: the value is not valid YAML") from error
    return result
