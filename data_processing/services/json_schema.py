"""Whether a service's answer is the JSON that was asked for. Covers the part of JSON Schema that pydantic writes."""

import json
import re
from collections.abc import Mapping
from typing import Any

from data_processing.services.protocols import ServiceError

_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "number": (int, float),
    "integer": int,
    "boolean": bool,
    "null": type(None),
}
_FENCE = re.compile(r"^```[a-zA-Z]*\s*\n(.*?)\n?```$", re.DOTALL)


def parse_object(text: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """The object in `text`, a Markdown fence around it taken off.

    Raises:
        ServiceError: it is not JSON, not an object, or does not fit `schema` (one line that names the place).
    """
    bare = text.strip()
    fenced = _FENCE.match(bare)
    try:
        value = json.loads(fenced.group(1) if fenced else bare, parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False).encode()  # half a character ("\\ud800") cannot be written later
    except (ValueError, RecursionError) as error:
        raise ServiceError(f"not JSON ({error}): '{_start(bare)}'") from error
    if not isinstance(value, dict):
        raise ServiceError(f"not a JSON object: '{_start(bare)}'")
    problem = _problem(value, schema, schema.get("$defs", {}), "answer")
    if problem:
        raise ServiceError(problem)
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _start(text: str) -> str:
    return " ".join(text.split())[:80]


def _problem(value: Any, schema: Mapping[str, Any], definitions: Mapping[str, Any], at: str) -> str | None:
    """What is wrong with `value`, or None."""
    if "$ref" in schema:
        return _problem(value, definitions[schema["$ref"].rsplit("/", 1)[-1]], definitions, at)
    if "anyOf" in schema:
        found = [_problem(value, choice, definitions, at) for choice in schema["anyOf"]]
        return None if None in found else found[0]
    if "const" in schema and value != schema["const"]:
        return f"{at} is '{value}', not '{schema['const']}'"
    if "enum" in schema and value not in schema["enum"]:
        return f"{at} is '{_start(str(value))}', none of {', '.join(map(str, schema['enum']))}"
    if "type" in schema and not _is_type(value, schema["type"]):
        return f"{at} is not of type {schema['type']}"
    if isinstance(value, str):
        return _length_problem(len(value), schema, "Length", "characters", at)
    if isinstance(value, list):
        items = schema.get("items", {})
        found = [_problem(item, items, definitions, f"{at}[{index}]") for index, item in enumerate(value)]
        return next(filter(None, found), None) or _length_problem(len(value), schema, "Items", "items", at)
    if isinstance(value, dict):
        return _object_problem(value, schema, definitions, at)
    return None


def _object_problem(
    value: dict[str, Any], schema: Mapping[str, Any], definitions: Mapping[str, Any], at: str
) -> str | None:
    missing = [name for name in schema.get("required", []) if name not in value]
    if missing:
        return f"{at} lacks {', '.join(missing)}"
    properties = schema.get("properties", {})
    extra = [name for name in value if name not in properties]
    if extra and schema.get("additionalProperties") is False:
        return f"{at} has {', '.join(map(_start, extra))}, which was not asked for"
    for name, part in properties.items():
        if name in value and (problem := _problem(value[name], part, definitions, f"{at}.{name}")):
            return problem
    return None


def _length_problem(length: int, schema: Mapping[str, Any], what: str, unit: str, at: str) -> str | None:
    if length < schema.get(f"min{what}", 0):
        return f"{at} has {length} {unit}, fewer than {schema[f'min{what}']}"
    if length > schema.get(f"max{what}", length):
        return f"{at} has {length} {unit}, more than {schema[f'max{what}']}"
    return None


def _is_type(value: Any, names: str | list[str]) -> bool:
    wanted = [names] if isinstance(names, str) else names
    if isinstance(value, bool):
        return "boolean" in wanted
    return any(isinstance(value, _TYPES[name]) for name in wanted)
