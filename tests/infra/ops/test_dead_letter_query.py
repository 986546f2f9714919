import json
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from infra.cli.app import app
from infra.ops.dead_letter_query import Selection, as_json, identity, listed, summary, summed, table
from infra.ops.message_fix import Fix
from infra.ports.kafka import Record
from infra.ports.settings import Settings
from tests.infra.cli.foryou import foryou, letters, unique, write
from thunder_ingest.events import DeadLetter, Refused, decode

T0 = 1_700_000_000_000
HOUR = 3_600_000


def letter(reason: str, offset: int = 0, topic: str = "posts", at: int = T0, value: bytes | None = b"x") -> DeadLetter:
    return DeadLetter(topic=topic, partition=1, offset=offset, at=at, reason=reason, key=b"7", value=value)


def shown(renderable: object) -> str:
    console = Console(width=160, record=True, file=sys.stderr)
    console.print(renderable)
    return console.export_text()


@pytest.mark.parametrize(
    ("selection", "is_meant"),
    [
        (Selection(), True),
        (Selection(topic="posts"), True),
        (Selection(topic="engagements"), False),
        (Selection(reason="MISSING"), True),
        (Selection(reason="malformed"), False),
        (Selection(since_ms=T0), True),
        (Selection(since_ms=T0 + 1), False),
        (Selection(partition=1, offset=5), True),
        (Selection(partition=0), False),
        (Selection(offset=0), False),
    ],
)
def test_a_selection_holds_what_all_its_parts_hold(selection: Selection, is_meant: bool) -> None:
    assert selection.holds(letter("Object missing required field `at`", offset=5)) is is_meant


def test_reasons_that_differ_in_values_alone_are_counted_as_one() -> None:
    sums = summary(
        [
            letter("a message of 300,000 bytes; at most 262,144 are allowed"),
            letter("a message of 400,000 bytes; at most 262,144 are allowed", at=T0 + 1),
            letter("Invalid value 'x' - at `$.type`", topic="engagements"),
        ]
    )
    assert [(each.topic, each.reason, each.count, each.newest_at) for each in sums] == [
        ("posts", "a message of … bytes; at most … are allowed", 2, T0 + 1),
        ("engagements", "Invalid value … - at `$.type`", 1, T0),
    ]


def test_what_a_letter_holds_cannot_steer_a_terminal() -> None:
    row = shown(table([letter("[red]no[/red]", value=b"\x1b[2J\x07boo")], 1))
    assert "[red]no[/red]" in row
    assert "\x1b[2J" not in row
    assert "\ufffd[2J\ufffdboo" in row


def test_one_message_has_one_identity_however_often_it_was_refused() -> None:
    assert identity(letter("first")) == identity(letter("again", at=T0 + 1))
    assert len({identity(each) for each in (letter("a"), letter("a", offset=1), letter("a", value=None))}) == 3


@pytest.mark.embedded
def test_letters_are_listed_newest_first_each_once(servers: Settings) -> None:
    reason = unique("reason")
    letters(servers, *(letter(reason, offset=n, at=T0 + n) for n in (2, 0, 1)), letter(reason, offset=2, at=T0 + 9))
    found, meant = listed(servers, Selection(reason=reason), 2, Console(file=sys.stderr))
    assert ([each.offset for each in found], meant) == ([2, 1], 3)
    assert "the newest 2 of 3" in shown(table(found, meant))


@pytest.mark.embedded
def test_what_is_no_dead_letter_is_told_and_passed_over(servers: Settings, caplog: pytest.LogCaptureFixture) -> None:
    reason = unique("reason")
    write(servers, Record("dead-letters", b"posts", b"nonsense"))
    letters(servers, letter(reason))
    (total,) = summed(servers, Selection(reason=reason), Console(file=sys.stderr))
    assert total.count == 1
    assert "is no dead letter" in caplog.text


@pytest.mark.embedded
def test_the_command_filters_sums_up_and_shows(servers: Settings) -> None:
    reason, now = unique("reason"), time.time_ns() // 1_000_000
    whole = b'{"text":"' + b"long " * 100 + b'\xff"}'
    letters(
        servers,
        letter(reason, offset=1, at=now, value=whole),
        letter(reason, offset=2, at=now - 2 * HOUR),
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
    assert done.stderr.decode().splitlines()[-1].startswith("foryou: 3 dead letters are meant; name one with")


@pytest.mark.embedded
def test_nothing_to_show_is_told(servers: Settings) -> None:
    done = foryou("dead-letters", "--reason", unique("none"), "--show", settings=servers)
    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[-1] == "foryou: no dead letters are meant"
    done = foryou("dead-letters", "--reason", unique("none"), "--json", settings=servers)
    assert (done.returncode, json.loads(done.stdout)) == (0, [])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--topic", "thunder-posts"], "no topic that apps write"),
        (["--summary", "--show"], "exclude each other"),
        (["--set", "at=1"], "go with --republish"),
        (["--since", "yesterday"], "not a duration"),
        (["--republish"], "say --yes"),
        (["--republish", "--yes", "--set", "kind=original"], "text needs quotes"),
        (["--republish", "--yes", "--set", "at"], "is not FIELD=JSON"),
    ],
)
def test_options_that_make_no_sense_are_refused(arguments: list[str], told: str) -> None:
    done = CliRunner().invoke(app, ["dead-letters", *arguments], env={"COLUMNS": "300"})
    assert done.exit_code == 2
    assert told in done.output


# --- mending ---------------------------------------------------------------------------------------------------------

POST = b'{"type":"post_created","post_id":1,"author_id":7,"at":1700000000000,"later":{"a" : 1.0},"kind":"story"}'


def test_a_field_is_replaced_and_the_rest_keeps_its_bytes() -> None:
    fix = Fix.parse(['kind="original"'])
    key, value = fix.apply(letter("", value=POST), T0)
    assert (key, value) == (b"7", POST.replace(b'"story"', b'"original"'))


def test_without_a_field_to_set_bytes_stay_as_they_are_whatever_they_are() -> None:
    assert Fix().apply(letter("", value=b"nonsense"), T0) == (b"7", b"nonsense")
    assert Fix().apply(letter("", value=None), T0) == (b"7", None)


def test_another_author_moves_a_message_to_that_authors_key() -> None:
    key, _ = Fix.parse(['kind="original"', 'author_id="did:plc:ana"']).apply(letter("", value=POST), T0)
    assert key == b"did:plc:ana"


@pytest.mark.parametrize(
    ("value", "changes", "reason"),
    [
        (POST, ["photos=1"], "Invalid enum value 'story'"),
        (POST, ['kind="repost"'], "a repost needs `source_post_id`"),
        (POST, ['kind="original"', f"at={T0 + 1}"], "too far in the future"),
        (POST, ['type="follow"'], "Invalid value 'follow'"),
        (b"nonsense", ["at=1"], "no field can be set: JSON is malformed"),
        (b"[1]", ["at=1"], "no field can be set"),
        (b"\xff", ["at=1"], "no field can be set"),
        (None, ["at=1"], "no field can be set"),
    ],
)
def test_what_could_not_be_used_after_that_either_is_refused(
    value: bytes | None, changes: list[str], reason: str
) -> None:
    with pytest.raises(Refused, match=reason):
        Fix.parse(changes).apply(letter("", value=value), T0)


def test_only_topics_that_apps_write_are_written_to() -> None:
    with pytest.raises(Refused, match="'thunder-posts' is not a topic that apps write"):
        Fix().apply(letter("", topic="thunder-posts"), T0)


@given(st.dictionaries(st.text(), st.integers() | st.text(), max_size=5), st.text(min_size=1))
def test_setting_a_label_touches_nothing_else(extra: dict[str, int | str], label: str) -> None:
    known = {"post_id": 1, "author_id": 7, "at": T0, "type": "post_labeled", "label": ""}
    message = json.dumps({**extra, **known}).encode()
    fix = Fix.parse([f"label={json.dumps(label[:255])}"])
    _, value = fix.apply(letter("", value=message), T0)
    assert json.loads(value or b"") == {**extra, **known, "label": label[:255]}
    assert decode("posts", value).label == label[:255]


def test_a_letter_is_json_whatever_its_bytes() -> None:
    assert json.dumps(as_json(letter("r", value=b"\xff")))
