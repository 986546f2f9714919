import io

import pytest
from rich.console import Console

from feed_worker.documents.feed import Feed, FeedItem, Reason
from infra.terminal.feeds import feed_table

POST = "at://did:plc:ana/app.bsky.feed.post/3jzfcijpj2z2a"


def printed(text: str, width: int) -> list[str]:
    reasons = [Reason(action="favorite", probability=0.125, contribution=0.1)]
    item = FeedItem(
        rank=1, post_id=POST, author_id="did:plc:ana", kind="reply", source="thunder", in_network=True, score=0.5,
        created_at=1_700_000_000_000, reasons=reasons,
    )  # fmt: skip
    feed = Feed(
        at=1, request_id="r", user_id="42", status="ok", generated_at=2, model_version="m", parameters="p",
        items=[item], degradations=[], answers=["r"],
    )  # fmt: skip
    out = io.StringIO()
    Console(file=out, width=width).print(feed_table(feed, text_of=lambda _: text))
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 100])
def test_a_feed_fits_the_terminal_and_shows_author_text_and_the_whole_id(width: int) -> None:
    lines = printed("Sailing across the bay", width)
    assert max(map(len, lines)) <= width
    whole = "\n".join(lines)
    assert "did:plc:ana" in whole
    assert "Sailing across the bay" in whole
    assert POST in whole


def test_a_text_cannot_control_the_terminal() -> None:
    whole = "\n".join(printed("[red]no[/red] \x1b[2J\x07boo", 80))
    assert "[red]no[/red] \ufffd[2J\ufffdboo" in whole


def test_a_long_text_takes_one_line() -> None:
    assert len(printed("long " * 100, 80)) == len(printed("short", 80))
