"""JSON Schemas of what apps publish, generated from the types that decode it."""

from typing import Any, Final

import msgspec

from thunder_ingest.events import INPUT_TYPES, MAX_MESSAGE_BYTES

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
    return described | msgspec.json.schema(type_)
