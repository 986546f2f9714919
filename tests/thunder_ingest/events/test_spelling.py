from typing import Any

import pytest

from tests.thunder_ingest.events.test_events import ENGAGEMENT, FOLLOW, POST, message
from thunder_ingest.events import decode_any
from thunder_ingest.events.spelling import misspelt


@pytest.mark.parametrize(
    ("event", "fields", "expected"),
    [
        (POST, {"txt": "hello"}, [("txt", "text")]),
        (POST, {"language": "fr", "photo": 1}, [("language", "lang"), ("photo", "photos")]),
        (ENGAGEMENT, {"dwel_ms": 5}, [("dwel_ms", "dwell_ms")]),
    ],
)
def test_an_unknown_field_that_resembles_a_known_one_is_pointed_out(
    event: dict[str, Any], fields: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    raw = message(event, **fields)
    assert list(misspelt(raw, decode_any(raw))) == expected


@pytest.mark.parametrize(
    "raw",
    [
        message(POST),
        message(POST, text="hello", text2="again"),  # the field that it resembles is there
        message(FOLLOW, country="is"),
    ],
)
def test_other_unknown_fields_are_not_pointed_out(raw: bytes) -> None:
    assert list(misspelt(raw, decode_any(raw))) == []
