from typing import Any

import msgspec
import pytest

from thunder_ingest.events import INPUT_TYPES
from thunder_ingest.events.schemas import json_schemas


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
    assert post["properties"]["kind"]["enum"] == sorted(["original", "reply", "repost", "quote"])
