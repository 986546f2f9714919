import json
from typing import Any

import pytest

from tests.thunder_ingest.events.test_events import ENGAGEMENT, FOLLOW, POST, REQUEST, message
from thunder_ingest.events import ACTIONS, KINDS, Refused, decode, decode_any


def reason_of(topic: str, raw: bytes) -> str:
    with pytest.raises(Refused) as refused:
        decode(topic, raw)
    return str(refused.value)


def test_an_unknown_type_is_refused_with_the_types_of_the_topic() -> None:
    assert reason_of("posts", message(POST, type="story")).endswith(
        "valid are post_created, post_deleted, post_labeled"
    )
    assert reason_of("feed-requests", message(REQUEST, type="story")).endswith("valid are feed_request")
    with pytest.raises(Refused, match=r"valid are post_created, .*, impression, engagement, follow, .*, feed_request$"):
        decode_any(message(POST, type="story"))


def test_a_message_without_a_type_is_refused_with_the_types_of_the_topic() -> None:
    without = {name: value for name, value in ENGAGEMENT.items() if name != "type"}
    assert reason_of("engagements", json.dumps(without).encode()).endswith("`type`; valid are impression, engagement")


def test_an_unknown_action_or_kind_is_refused_with_all_valid_ones() -> None:
    assert reason_of("engagements", message(ENGAGEMENT, action="like")).endswith("valid are " + ", ".join(ACTIONS))
    assert reason_of("posts", message(POST, kind="story")).endswith("valid are " + ", ".join(KINDS))


@pytest.mark.parametrize(
    ("topic", "event", "field", "value"),
    [
        ("posts", POST, "post_id", "a b"),
        ("posts", POST, "author_id", "{7}"),
        ("posts", POST, "conversation_id", " "),
        ("posts", POST, "post_id", 0),
        ("posts", POST, "post_id", None),
        ("posts", POST, "post_id", 1.5),
        ("social-graph", FOLLOW, "target_id", "a\n"),
        ("feed-requests", REQUEST, "seen_ids", [1, "a b"]),
    ],
)
def test_an_invalid_id_is_refused_with_the_rule_in_words(
    topic: str, event: dict[str, Any], field: str, value: object
) -> None:
    reason = reason_of(topic, message(event, **{field: value}))
    assert reason.startswith(
        "an id is an integer from 1 to 2^63-1, or a string of 1 to 255 bytes without spaces, braces"
    )
    assert f"`$.{field}" in reason
    assert "regex" not in reason


@pytest.mark.parametrize(("field", "limit"), [("check_ids", 200), ("seen_ids", 10_000), ("langs", 20)])
def test_a_list_that_is_too_long_is_refused_with_its_limit(field: str, limit: int) -> None:
    whole = ["x"] * limit
    assert getattr(decode("feed-requests", message(REQUEST, **{field: whole})), field) == whole
    reason = reason_of("feed-requests", message(REQUEST, **{field: [*whole, "x"]}))
    assert reason == f"too many values: at most {limit:,} are allowed - at `$.{field}`"
