import json
import re
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thunder_ingest import events
from thunder_ingest.events import (
    ACTIONS,
    INPUT_TYPES,
    MAX_MESSAGE_BYTES,
    Refused,
    count_from_arrival,
    decode,
    decode_all,
    decode_any,
    encode,
    key_of,
    topic_of,
)
from thunder_ingest.events.ids import id64
from thunder_ingest.events.labels import label_name

AT = 1_700_000_000_000
POST = {"type": "post_created", "post_id": 1, "author_id": 2, "at": AT}
ENGAGEMENT = {"type": "engagement", "user_id": 3, "post_id": 1, "author_id": 2, "action": "favorite", "at": AT}
FOLLOW = {"type": "follow", "user_id": 3, "target_id": 4, "at": AT}
REQUEST = {"type": "feed_request", "request_id": "r", "user_id": 3, "at": AT}


def message(event: dict[str, Any], **changes: Any) -> bytes:
    return json.dumps(event | changes).encode()


@pytest.mark.parametrize(
    ("topic", "event"),
    [
        ("posts", POST),
        ("posts", POST | {"kind": "reply", "in_reply_to_post_id": "did:x:1", "text": "hé", "lang": "fr", "photos": 3}),
        ("posts", POST | {"kind": "repost", "source_post_id": 9, "video_ms": 1, "subscriber_only": True}),
        ("posts", {"type": "post_deleted", "post_id": 1, "author_id": 2, "at": AT}),
        ("posts", {"type": "post_labeled", "post_id": 1, "author_id": 2, "at": AT, "label": "spam", "removed": True}),
        ("engagements", ENGAGEMENT),
        ("engagements", ENGAGEMENT | {"action": "dwell_time", "dwell_ms": 0}),
        ("engagements", ENGAGEMENT | {"action": "dwell_time", "undo": True}),
        ("engagements", {"type": "impression", "user_id": 3, "post_id": 1, "author_id": 2, "at": AT, "position": 0}),
        *(("social-graph", FOLLOW | {"type": tag}) for tag in ("follow", "unfollow", "block", "unblock", "mute")),
        *(("social-graph", FOLLOW | {"type": tag}) for tag in ("unmute", "subscribe", "unsubscribe")),
        ("social-graph", {"type": "mute_keyword", "user_id": 3, "keyword": "spoiler", "at": AT}),
        ("social-graph", {"type": "unmute_keyword", "user_id": 3, "keyword": "spoiler", "at": AT}),
        ("feed-requests", REQUEST | {"size": 200, "seen_ids": [1, "a"], "explain": True, "deadline_ms": 1}),
    ],
)
def test_every_event_goes_to_its_topic_and_comes_back_as_it_was(topic: str, event: dict[str, Any]) -> None:
    decoded = decode(topic, message(event))
    assert topic_of(decoded) == topic
    assert decode(topic, encode(decoded)) == decode_any(encode(decoded)) == decoded
    assert {name: value for name, value in event.items() if name != "type"}.items() <= msgspec.structs.asdict(
        decoded
    ).items()


@pytest.mark.parametrize(("topic", "event"), [("posts", POST), ("engagements", ENGAGEMENT), ("social-graph", FOLLOW)])
def test_unknown_fields_are_ignored_and_optional_ones_may_be_null(topic: str, event: dict[str, Any]) -> None:
    known = decode(topic, message(event))
    optional = {field.name: None for field in msgspec.structs.fields(known) if field.default is None}
    assert decode(topic, message(event, tomorrow={"a": [1]}, **optional)) == known


@pytest.mark.parametrize(
    ("topic", "raw", "reason"),
    [
        ("posts", None, "empty message"),
        ("posts", b"", "truncated"),
        ("posts", b"[]", "Expected `object`"),
        ("posts", b"{", "truncated"),
        ("posts", b"\xff", "malformed"),
        ("posts", b'{"type":"post_created","text":"\xff"}', "utf-8|UTF-8"),
        ("posts", b"[" * 100_000, "Expected `object`|recursion|depth"),
        ("posts", b" " * (events.MAX_MESSAGE_BYTES + 1), "at most 3,145,728 are allowed"),
        ("posts", message({"post_id": 1}), "`type`"),
        ("posts", message(FOLLOW), "Invalid value 'follow' - at `\\$.type`"),
        ("engagements", message(POST), "Invalid value 'post_created'"),
        ("posts", message(POST, at=None), r"\$.at"),
        ("posts", message(POST, at=0), r">= 1000000000000 - at `\$.at`"),
        ("posts", message(POST, at=AT // 1_000), "before 2001-09-09; seconds, most likely"),
        ("social-graph", message(FOLLOW, at=10**12 - 1), "seconds, most likely"),
        ("feed-requests", message(REQUEST, at=AT // 1_000), "seconds, most likely"),
        ("engagements", message(ENGAGEMENT, at=AT * 1_000), "micro- or nanoseconds, most likely"),
        ("posts", message(POST, at=AT * 1_000_000), "micro- or nanoseconds, most likely"),
        ("posts", message(POST, at="2023-11-14T22:13:20Z"), "epoch milliseconds are wanted"),
        ("posts", message(POST, at=float(AT)), "epoch milliseconds are wanted"),
        ("posts", message(POST, at=True), "epoch milliseconds are wanted"),
        ("posts", message(POST, at=events.LAST_TIME_MS + 1), r"<= 253402300799999 - at `\$.at`"),
        ("posts", message(POST, at=10**30), r"\$.at|out of range"),
        ("posts", message(POST, at=1.5), r"Expected `int`, got `float` - at `\$.at`"),
        ("posts", message(POST, at="now"), r"Expected `int`, got `str` - at `\$.at`"),
        ("posts", message({"type": "post_created", "post_id": 1, "at": AT}), "missing required field `author_id`"),
        ("posts", message(POST, post_id=0), r"\$.post_id"),
        ("posts", message(POST, post_id=-1), r"Expected `int` >= 1.* - at `\$.post_id`"),
        ("posts", message(POST, post_id=True), r"got `bool`.* - at `\$.post_id`"),
        ("posts", message(POST, post_id=7.0), r"got `float`.* - at `\$.post_id`"),
        (
            "posts",
            b'{"type":"post_created","post_id":1,"author_id":1,"at":1700000000000,"text":"\\ud800"}',
            "truncated",
        ),
        ("posts", message(POST, post_id=2**63), r"\$.post_id|out of range"),
        ("posts", message(POST, post_id="0"), "outside 1"),
        ("posts", message(POST, post_id="a b"), r"without spaces, braces or control characters - at `\$.post_id`"),
        ("posts", message(POST, post_id="ü" * 200), "bytes; 1 to 255"),
        ("posts", message(POST, author_id="9" * 30), "outside 1"),
        ("posts", message(POST, conversation_id="ü" * 200), "bytes; 1 to 255"),
        ("posts", message(POST, source_author_id="ü" * 200), "bytes; 1 to 255"),
        ("posts", message(POST, kind="story"), r"Invalid enum value 'story' - at `\$.kind`"),
        ("posts", message(POST, kind="reply"), "needs `in_reply_to_post_id`"),
        ("posts", message(POST, kind="repost"), "a repost needs `source_post_id`"),
        ("posts", message(POST, kind="quote"), "a quote needs `source_post_id`"),
        ("posts", message(POST, text="x" * (events.MAX_TEXT + 1)), r"length <= 25000 - at `\$.text`"),
        ("posts", message(POST, text=5), r"\$.text"),
        ("posts", message(POST, photos=-1), r"\$.photos"),
        ("posts", message(POST, video_ms=2**31), r"\$.video_ms"),
        ("posts", message(POST, lang="", text=[]), r"\$.text"),
        ("posts", message(POST, text="\ufdfa" * 2_000), "36,000 characters when normalised"),
        ("posts", message(POST, kind="reply", in_reply_to_post_id=0), "needs `in_reply_to_post_id`"),
        ("posts", message(POST, subscriber_only=1), r"\$.subscriber_only"),
        ("posts", message({"type": "post_deleted", "post_id": "0", "author_id": 2, "at": AT}), "outside 1"),
        ("posts", message({"type": "post_labeled", "post_id": 1, "author_id": 2, "at": AT, "label": ""}), "label"),
        ("engagements", message(ENGAGEMENT, action="like"), r"Invalid enum value 'like' - at `\$.action`"),
        ("engagements", message(ENGAGEMENT, action="dwell_time"), "needs `dwell_ms`"),
        ("engagements", message(ENGAGEMENT, dwell_ms=-1), r"\$.dwell_ms"),
        ("engagements", message(ENGAGEMENT, user_id="0"), "outside 1"),
        ("engagements", message(ENGAGEMENT, type="impression", position=100_001), r"\$.position"),
        ("engagements", message(ENGAGEMENT, type="impression", post_id="0"), "outside 1"),
        ("social-graph", message(FOLLOW, target_id=3), "cannot follow themselves"),
        ("social-graph", message(FOLLOW, type="block", target_id="3"), "cannot block themselves"),
        ("social-graph", message(FOLLOW, target_id="ü" * 200), "bytes; 1 to 255"),
        ("social-graph", message(FOLLOW, type="mute_keyword", keyword=""), r"\$.keyword"),
        (
            "social-graph",
            message(FOLLOW, type="mute_keyword", keyword="\u200b?"),
            "a letter, a digit, an emoji or signs",
        ),
        ("social-graph", message(FOLLOW, type="mute_keyword", keyword="x", user_id="0"), "outside 1"),
        ("feed-requests", message(REQUEST, request_id=""), r"\$.request_id"),
        ("feed-requests", message(REQUEST, size=201), r"\$.size"),
        ("feed-requests", message(REQUEST, seen_ids=[1] * 10_001), r"\$.seen_ids"),
        ("feed-requests", message(REQUEST, seen_ids=["0"]), "outside 1"),
    ],
)
def test_a_message_that_cannot_be_used_is_refused_with_the_reason(topic: str, raw: bytes | None, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        decode(topic, raw)


VARIANTS = [variant for expected in INPUT_TYPES.values() for variant in get_args(expected) or (expected,)]
OPTIONAL = [(each, field) for each in VARIANTS for field in msgspec.structs.fields(each) if not field.required]


@pytest.mark.parametrize(("variant", "field"), OPTIONAL, ids=lambda each: getattr(each, "__name__", None) or each.name)
def test_an_optional_field_with_the_empty_default_of_an_exporter_is_absent(variant: Any, field: Any) -> None:
    whole = {
        "post_id": 5,
        "author_id": 6,
        "user_id": 7,
        "at": AT,
        "request_id": "r",
        "label": "spam",
        "action": "click",
    }
    names = {each.name for each in msgspec.structs.fields(variant) if each.required}
    needed = {"type": variant.__struct_config__.tag} | {name: whole[name] for name in names}
    absent = decode_any(message(needed))
    for empty in (None, "", 0, *["0"] * field.name.endswith(("post_id", "author_id", "conversation_id"))):
        event = decode_any(message(needed, **{field.name: empty}))
        assert (getattr(event, field.name) or field.default) == getattr(absent, field.name), empty
        assert msgspec.structs.replace(event, **{field.name: field.default}) == absent
    everything = dict.fromkeys((each.name for other, each in OPTIONAL if other is variant), "")
    assert decode_any(message(needed, **everything)) == absent


@pytest.mark.parametrize("spelling", [" Suspended", "SUSPENDED", "suspended\n", "\tsusPended "])
def test_case_and_blanks_of_the_status_of_an_account_do_not_matter(spelling: str) -> None:
    account = {"type": "account", "user_id": 7, "at": AT}
    assert decode_any(message(account, status=spelling)) == decode_any(message(account, status="suspended"))
    assert events.decode_all("social-graph", [message(account, status=spelling)])[0].status == "suspended"


@pytest.mark.parametrize("status", ["banned", "", 5, None])
def test_an_unknown_status_of_an_account_is_refused_with_the_valid_ones(status: object) -> None:
    with pytest.raises(Refused, match=r"valid are active, deactivated, suspended, deleted$"):
        decode_any(message({"type": "account", "user_id": 7, "at": AT}, status=status))


@pytest.mark.parametrize(
    "hyphen", ["-", "\u2010", "\u2011", "\u2013", "\u2014", "\u2212", "\u00ad", "\uff0d", " - ", "_"]
)
def test_hyphens_of_a_label_count_as_blanks(hyphen: str) -> None:
    assert label_name(f"Child{hyphen}Safety") == label_name("child safety") == "child_safety"


def test_a_deletion_without_an_author_is_keyed_by_its_post() -> None:
    assert key_of(decode("posts", message({"type": "post_deleted", "post_id": 5, "author_id": 0, "at": AT}))) == 5


def test_a_required_field_has_no_empty_default() -> None:
    for raw in (message(POST, post_id=0), message(ENGAGEMENT, user_id=""), message(ENGAGEMENT, action="")):
        with pytest.raises(Refused):
            decode_any(raw)


def test_a_request_may_have_ten_thousand_seen_ids_of_255_bytes() -> None:
    seen = [f"at://{number:06}/{'x' * 243}" for number in range(events.MAX_SEEN_IDS)]
    assert {len(each) for each in seen} == {255}
    request = decode_any(message(REQUEST, seen_ids=seen, langs=["x" * 255] * 20, surface="x" * 255))
    assert decode("feed-requests", encode(request)).seen_ids == seen
    with pytest.raises(Refused, match=r"bytes; at most 3,145,728 are allowed"):
        decode_any(message(REQUEST, seen_ids=[each * 2 for each in seen]))


@pytest.mark.parametrize("post_id", [2**53 + 1, 2**63 - 1])
def test_an_id_above_2_to_the_53_keeps_all_its_digits(post_id: int) -> None:
    assert decode("posts", message(POST, post_id=post_id)).post_id == post_id
    assert id64(str(post_id)) == post_id


def test_the_first_millisecond_that_is_accepted_is_that_of_september_2001() -> None:
    assert decode("posts", message(POST, at=events.FIRST_TIME_MS)).at == 10**12


def test_an_event_ahead_of_its_arrival_counts_as_of_its_arrival_and_one_too_far_ahead_is_refused() -> None:
    event = decode("posts", message(POST))
    count_from_arrival(event, AT + 1, 500)
    assert event.at == AT
    count_from_arrival(event, AT - 500, 500)
    assert event.at == AT - 500
    with pytest.raises(Refused, match="1 s ahead of the arrival, too far in the future; at most 0 s are allowed"):
        count_from_arrival(event, AT - 1_001, 500)


def test_decode_any_refuses_like_decode() -> None:
    for raw in (b"{", message(POST, kind="repost"), message(POST, type="story")):
        with pytest.raises(Refused):
            decode_any(raw)


def test_a_batch_decodes_like_its_messages_one_by_one() -> None:
    raws = [
        message(POST),
        None,
        b"{",
        message(POST, kind="repost"),
        message(POST, author_id=2**63),
        message(POST, author_id=str(2**63)),
        message(POST, conversation_id=0, lang=""),
        b" " * MAX_MESSAGE_BYTES + message(POST),
        b"[" * 100_000,
        message(POST, post_id=6),
    ]
    found = decode_all("posts", raws)
    assert [place for place, event in enumerate(found) if isinstance(event, Refused)] == [1, 2, 3, 4, 5, 7, 8]
    for raw, event in zip(raws, found, strict=True):
        if isinstance(event, Refused):
            with pytest.raises(Refused, match=f"^{re.escape(str(event))}$"):
                decode("posts", raw)
        else:
            assert event == decode("posts", raw)


@given(st.sampled_from(list(INPUT_TYPES)), st.binary(max_size=200))
def test_random_bytes_are_refused(topic: str, raw: bytes) -> None:
    with pytest.raises(Refused):
        decode(topic, raw)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.sampled_from(
        [("posts", POST), ("engagements", ENGAGEMENT), ("social-graph", FOLLOW), ("feed-requests", REQUEST)]
    ),
    st.data(),
)
def test_an_event_with_any_value_in_any_field_decodes_or_is_refused(
    case: tuple[str, dict[str, Any]], data: st.DataObject
) -> None:
    topic, event = case
    field = data.draw(st.sampled_from([field.name for field in msgspec.structs.fields(decode(topic, message(event)))]))
    try:
        decoded = decode(topic, message(event, **{field: data.draw(json_values)}))
    except Refused:
        return
    assert decode(topic, encode(decoded)) == decoded


def test_events_are_keyed_by_author_or_user() -> None:
    cases = (("posts", POST, 2), ("engagements", ENGAGEMENT, 3), ("social-graph", FOLLOW, 3))
    for topic, event, key in (*cases, ("feed-requests", REQUEST, 3)):
        assert key_of(decode(topic, message(event))) == key


def test_the_actions_stand_in_the_published_order() -> None:
    assert len(ACTIONS) == 19
    assert (ACTIONS[0], ACTIONS[6], ACTIONS[17], ACTIONS[18]) == ("favorite", "vqv", "report", "dwell_time")
    assert events.IMPRESSION == 19


def test_derived_records_come_back_as_they_were() -> None:
    post = events.Post(post_id=1, author_id=2, labels={"spam": -3}, tokens=b"\0\1", post_form="x")
    counts = events.PostCounts(post_id=1, at=5, totals=[0] * 20)
    embedding = events.PostEmbedding(post_id=1, model_version="v", vector=b"abcd")
    letter = events.DeadLetter(topic="posts", partition=0, offset=1, at=2, reason="no", value=b"\xff")
    assert events.unpack_post(events.pack(post)) == post
    assert events.unpack_counts(events.pack(counts)) == counts
    assert events.unpack_embedding(events.pack(embedding)) == embedding
    assert events.unpack_dead_letter(events.pack(letter)) == letter


@pytest.mark.parametrize("request_id", [5, -(2**63) + 1, "x" * 256, "x" * 4_096])
def test_the_asker_of_a_request_with_an_invalid_request_id_can_be_read(request_id: object) -> None:
    raw = message(REQUEST, request_id=request_id)
    with pytest.raises(Refused, match="request_id"):
        decode_any(raw)
    asked = events.readable_request(raw, AT)
    assert asked is not None
    assert asked.request_id == str(request_id)


@pytest.mark.parametrize("request_id", ["", "x" * 4_097, None, True, 1.5, [5], 10**30, 10**4_200])
def test_without_a_request_id_no_asker_can_be_read(request_id: object) -> None:
    assert events.readable_request(message(REQUEST, request_id=request_id), AT) is None
