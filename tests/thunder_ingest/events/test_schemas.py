from typing import Any

import msgspec
import pytest

from thunder_ingest.events import INPUT_TYPES, decode
from thunder_ingest.events.schemas import json_schemas

ABSENT = "counts as absent"


def _tags(schema: dict[str, Any]) -> set[str]:
    return {tag for definition in schema["$defs"].values() for tag in definition["properties"]["type"]["enum"]}


def test_there_is_a_schema_for_each_topic_that_apps_write() -> None:
    schemas = json_schemas()
    assert list(schemas) == list(INPUT_TYPES)
    assert all(schema["title"] == topic and schema["$schema"] for topic, schema in schemas.items())
    assert msgspec.json.decode(msgspec.json.encode(schemas)) == schemas


@pytest.mark.parametrize(
    ("topic", "tags"),
    [
        ("posts", {"post_created", "post_deleted", "post_labeled"}),
        ("engagements", {"impression", "engagement"}),
        ("feed-requests", {"feed_request"}),
    ],
)
def test_a_schema_names_every_type_of_event(topic: str, tags: set[str]) -> None:
    assert _tags(json_schemas()[topic]) == tags


def test_a_schema_has_the_limits_and_the_required_fields() -> None:
    post = json_schemas()["posts"]["$defs"]["PostCreated"]
    assert {"type", "at", "post_id", "author_id"} == set(post["required"])
    assert post["properties"]["at"]["minimum"] == 10**12
    assert post["properties"]["kind"]["anyOf"][0]["enum"] == sorted(["original", "reply", "repost", "quote"])


REQUIRED = {
    "at": 1_790_000_000_000,
    "post_id": 1,
    "author_id": 2,
    "user_id": 3,
    "target_id": 4,
    "label": "spam",
    "action": "favorite",
    "keyword": "word",
    "status": "active",
    "request_id": "r",
}


@pytest.mark.parametrize("topic", INPUT_TYPES)
def test_the_empty_defaults_of_optional_fields_are_in_the_schema_and_are_accepted(topic: str) -> None:
    for definition in json_schemas()[topic]["$defs"].values():
        properties, required = definition["properties"], set(definition["required"]) - {"type"}
        (tag,) = properties["type"]["enum"]
        event = {"type": tag} | {name: REQUIRED[name] for name in required}
        plain = decode(topic, msgspec.json.encode(event))
        for name in properties.keys() - required - {"type"}:
            (absent,) = [form["enum"] for form in properties[name]["anyOf"] if form.get("description") == ABSENT]
            assert {"type": "null"} not in properties[name]["anyOf"]
            for value in {None, "", 0} - set(absent):
                assert getattr(decode(topic, msgspec.json.encode(event | {name: value})), name) == value
            for value in absent:
                assert decode(topic, msgspec.json.encode(event | {name: value})) == plain
