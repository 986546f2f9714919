"""JSON Schemas of what apps publish, generated from the types that decode it."""

from typing import Any, Final

import msgspec

from thunder_ingest.events import INPUT_TYPES, MAX_MESSAGE_BYTES
from thunder_ingest.events.checks import empty_defaults

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def json_schemas() -> dict[str, dict[str, Any]]:
    """A JSON Schema for each input topic: what one message of it may be."""
    return {topic: _schema(topic, type_) for topic, type_ in INPUT_TYPES.items()}


def _schema(topic: str, type_: Any) -> dict[str, Any]:
    described = {
        "$schema": DIALECT,
        "title": topic,
        "description": f"One message of `{topic}`: a JSON object in UTF-8 of at most {MAX_MESSAGE_BYTES:,} bytes. "
        "Unknown fields are ignored.",
    }
    schema = described | msgspec.json.schema(type_)
    for definition in schema["$defs"].values():
        for name, field in definition["properties"].items():
            if name not in definition["required"]:
                _accept_empty_defaults(name, field)
    return schema


def _accept_empty_defaults(name: str, field: dict[str, Any]) -> None:
    """Add the values with which an optional field counts as absent."""
    default = {"default": field.pop("default")}
    forms = [form for form in field.pop("anyOf", [field.copy()]) if form != {"type": "null"}]
    values = map(msgspec.json.decode, empty_defaults(name))
    absent = [value for value in values if not any(_is_own(value, form) for form in forms)]
    field.clear()
    field |= {"anyOf": [*forms, {"description": "counts as absent", "enum": absent}]} | default


def _is_own(value: Any, form: dict[str, Any]) -> bool:
    """True for an empty value that is valid by itself: 0 photos, an empty text."""
    if value == 0:
        return form.get("type") == "integer" and form.get("minimum", 0) <= 0
    return value == "" and form.get("type") == "string" and not form.get("minLength")
