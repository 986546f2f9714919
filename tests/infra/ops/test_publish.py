from typing import cast

import pytest

from feed_worker.client import Client
from infra.ops.publish import _publish
from tests.thunder_ingest.events.test_events import FOLLOW, POST, message


class RecordingClient:
    def __init__(self) -> None:
        self.published: list[tuple[str, bytes | None, bytes]] = []

    def publish_raw(self, topic: str, key: bytes | None, value: bytes) -> None:
        self.published.append((topic, key, value))


def test_a_field_that_looks_misspelt_is_pointed_out_once_and_the_line_is_published(
    capsys: pytest.CaptureFixture[str],
) -> None:
    client, line = RecordingClient(), message(POST, txt="hello")
    assert _publish([line, line], cast(Client, client), strict=False) == (2, 0)
    assert client.published == [("posts", b"2", line)] * 2
    assert capsys.readouterr().err == "line 1: warning: unknown field `txt`, ignored; is it `text`?\n"


def test_a_refused_line_is_printed_with_its_number_and_the_others_are_published(
    capsys: pytest.CaptureFixture[str],
) -> None:
    client = RecordingClient()
    lines = [message(POST, kind="story"), b"", message(FOLLOW)]
    assert _publish(lines, cast(Client, client), strict=False) == (1, 1)
    assert capsys.readouterr().err.startswith("line 1: Invalid enum value 'story' - at `$.kind`; valid are original,")
    assert _publish(lines, cast(Client, client), strict=True) == (0, 1)
