import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from infra.cli.app import app
from infra.ops.dead_letter_query import LetterFilter, as_json, count_reasons, identity, list_newest, reason_counts
from infra.ops.message_fix import Fix
from infra.ports.clock import HOUR_MS, now_ms
from infra.ports.producer import Record
from infra.ports.settings import Settings
from infra.terminal.dead_letters import letters_table
from tests.infra.cli.foryou import foryou, letters, unique, write
from thunder_ingest.events import DeadLetter, PostLabeled, Refused, decode
from thunder_ingest.events.labels import label_name

T0 = 1_700_000_000_000


def letter(reason: str, offset: int = 0, topic: str = "posts", at: int = T0, value: bytes | None = b"x") -> DeadLetter:
    return DeadLetter(topic=topic, partition=1, offset=offset, at=at, reason=reason, key=b"7", value=value)


def shown(renderable: object) -> str:
    console = Console(width=160, record=True, file=sys.stderr)
    console.print(renderable)
    return console.export_text()


@pytest.mark.parametrize(
    ("wanted", "accepted"),
    [
        (LetterFilter(), True),
        (LetterFilter(topic="posts"), True),
        (LetterFilter(topic="engagements"), False),
        (LetterFilter(reason="MISSING"), True),
        (LetterFilter(reason="malformed"), False),
        (LetterFilter(since_ms=T0), True),
        (LetterFilter(since_ms=T0 + 1), False),
        (LetterFilter(partition=1, offset=5), True),
        (LetterFilter(partition=0), False),
        (LetterFilter(offset=0), False),
    ],
)
def test_a_filter_accepts_a_letter_that_meets_every_condition(wanted: LetterFilter, accepted: bool) -> None:
    assert wanted.accepts(letter("Object missing required field `at`", offset=5)) is accepted


def test_reasons_that_differ_only_in_values_are_counted_together() -> None:
    counts = reason_counts(
        [
            letter("a message of 300,000 bytes; at most 262,144 are allowed"),
            letter("a message of 400,000 bytes; at most 262,144 are allowed", at=T0 + 1),
            letter("Invalid value 'x' - at `$.type`", topic="engagements"),
        ]
    )
    assert [(each.topic, each.reason, each.count, each.newest_at) for each in counts] == [
        ("posts", "a message of … bytes; at most … are allowed", 2, T0 + 1),
        ("engagements", "Invalid value … - at `$.type`", 1, T0),
    ]


def test_the_content_of_a_letter_cannot_control_a_terminal() -> None:
    row = shown(letters_table([letter("[red]no[/red]", value=b"\x1b[2J\x07boo")], 1))
    assert "[red]no[/red]" in row
    assert "\x1b[2J" not in row
    assert "\ufffd[2J\ufffdboo" in row


def test_a_message_that_is_refused_twice_keeps_its_identity() -> None:
    assert identity(letter("first")) == identity(letter("again", at=T0 + 1))
    assert len({identity(each) for each in (letter("a"), letter("a", offset=1), letter("a", value=None))}) == 3


@pytest.mark.embedded
def test_each_letter_is_listed_once_newest_first(servers: Settings) -> None:
    reason = unique("reason")
    letters(servers, *(letter(reason, offset=n, at=T0 + n) for n in (2, 0, 1)), letter(reason, offset=2, at=T0 + 9))
    found, total = list_newest(servers, LetterFilter(reason=reason), 2, Console(file=sys.stderr))
    assert ([each.offset for each in found], total) == ([2, 1], 3)
    assert "the newest 2 of 3" in shown(letters_table(found, total))


@pytest.mark.embedded
def test_a_record_that_is_not_a_dead_letter_is_logged_and_skipped(
    servers: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    reason = unique("reason")
    write(servers, Record("dead-letters", b"posts", b"nonsense"))
    letters(servers, letter(reason))
    (total,) = count_reasons(servers, LetterFilter(reason=reason), Console(file=sys.stderr))
    assert total.count == 1
    assert "is not a dead letter" in caplog.text


@pytest.mark.embedded
def test_the_command_filters_counts_and_shows_letters(servers: Settings) -> None:
    reason, now = unique("reason"), now_ms()
    whole = b'{"text":"' + b"long " * 100 + b'\xff"}'
    letters(
        servers,
        letter(reason, offset=1, at=now, value=whole),
        letter(reason, offset=2, at=now - 2 * HOUR_MS),
        letter(reason, offset=3, topic="engagements", at=now),
    )
    narrowed = ("--reason", reason.upper(), "--since", "1h", "--topic", "posts")
    done = foryou("dead-letters", *narrowed, "--json", settings=servers)
    assert done.returncode == 0, done.stderr
    assert [each["offset"] for each in json.loads(done.stdout)] == [1]
    done = foryou("dead-letters", "--reason", reason, "--summary", "--json", settings=servers)
    assert [(each["topic"], each["count"]) for each in json.loads(done.stdout)] == [("posts", 2), ("engagements", 1)]
    done = foryou("dead-letters", "--reason", reason, "--partition", "1", "--offset", "1", "--show", settings=servers)
    assert done.stdout == whole
    done = foryou("dead-letters", "--reason", reason, "--show", settings=servers)
    assert done.returncode == 2
    assert done.stderr.decode().splitlines()[-1].startswith("foryou: 3 dead letters match; select one with")


@pytest.mark.embedded
def test_show_without_a_match_fails_and_a_list_without_a_match_is_empty(servers: Settings) -> None:
    done = foryou("dead-letters", "--reason", unique("none"), "--show", settings=servers)
    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[-1] == "foryou: no dead letter matches"
    done = foryou("dead-letters", "--reason", unique("none"), "--json", settings=servers)
    assert (done.returncode, json.loads(done.stdout)) == (0, [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--topic", "thunder-posts"], "is not an input topic"),
        (["--summary", "--show"], "exclude each other"),
        (["--set", "at=1"], "need --republish"),
        (["--since", "yesterday"], "not a duration"),
        (["--republish"], "add --yes"),
        (["--republish", "--yes", "--set", "kind=original"], "text needs quotes"),
        (["--republish", "--yes", "--set", "at"], "is not FIELD=JSON"),
    ],
)
def test_options_that_contradict_each_other_are_refused(arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["dead-letters", *arguments], env={"COLUMNS": "300"})
    assert done.exit_code == 2
    assert message in done.output


# --- fixes -----------------------------------------------------------------------------------------------------------

POST = b'{"type":"post_created","post_id":1,"author_id":7,"at":1700000000000,"later":{"a" : 1.0},"kind":"story"}'


def test_a_fix_replaces_a_field_and_keeps_the_bytes_of_the_others() -> None:
    fix = Fix.parse(['kind="original"'])
    key, value = fix.apply(letter("", value=POST), T0)
    assert (key, value) == (b"7", POST.replace(b'"story"', b'"original"'))


def test_a_fix_without_fields_keeps_any_bytes() -> None:
    assert Fix().apply(letter("", value=b"nonsense"), T0) == (b"7", b"nonsense")
    assert Fix().apply(letter("", value=None), T0) == (b"7", None)


def test_a_new_author_becomes_the_key_of_the_message() -> None:
    key, _ = Fix.parse(['kind="original"', 'author_id="did:plc:ana"']).apply(letter("", value=POST), T0)
    assert key == b"did:plc:ana"


@pytest.mark.parametrize(
    ("value", "changes", "reason"),
    [
        (POST, ["photos=1"], "Invalid enum value 'story'"),
        (POST, ['kind="repost"'], "a repost needs `source_post_id`"),
        (POST, ['kind="original"', f"at={T0 + 1}"], "too far in the future"),
        (POST, ['type="follow"'], "Invalid value 'follow'"),
        (b"nonsense", ["at=1"], "cannot set a field: JSON is malformed"),
        (b"[1]", ["at=1"], "cannot set a field"),
        (b"\xff", ["at=1"], "cannot set a field"),
        (None, ["at=1"], "cannot set a field"),
    ],
)
def test_a_message_that_is_still_invalid_after_the_fix_is_refused(
    value: bytes | None, changes: list[str], reason: str
) -> None:
    with pytest.raises(Refused, match=reason):
        Fix.parse(changes).apply(letter("", value=value), T0)


def test_a_fix_accepts_only_letters_of_input_topics() -> None:
    with pytest.raises(Refused, match="'thunder-posts' is not an input topic"):
        Fix().apply(letter("", topic="thunder-posts"), T0)


UNKNOWN_FIELDS = st.text().filter(lambda name: name not in PostLabeled.__struct_fields__)


@given(st.dictionaries(UNKNOWN_FIELDS, st.integers() | st.text(), max_size=5), st.text(min_size=1).filter(label_name))
def test_a_new_label_changes_no_other_field(extra: dict[str, int | str], label: str) -> None:
    known = {"post_id": 1, "author_id": 7, "at": T0, "type": "post_labeled", "label": ""}
    message = json.dumps({**extra, **known}).encode()
    fix = Fix.parse([f"label={json.dumps(label[:255])}"])
    _, value = fix.apply(letter("", value=message), T0)
    assert json.loads(value or b"") == {**extra, **known, "label": label[:255]}
    assert label_name(decode("posts", value).label) == label_name(label[:255])


def test_a_letter_with_invalid_utf8_is_still_json() -> None:
    assert json.dumps(as_json(letter("r", value=b"\xff")))
