from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from feed_worker.serving.admission import Refusal
from feed_worker.serving.offsets import MessageOffset
from feed_worker.serving.request_queue import MergedRequest, ReceivedRequest, RequestQueue, merge
from thunder_ingest.events import FeedRequest

T0 = 1_700_000_000_000
TOPIC = "feed-requests"


def taken(
    name: str,
    user: int | str = 1,
    at: int = T0,
    size: int | None = None,
    offset: int | None = None,
    after: str | None = None,
) -> ReceivedRequest:
    request = FeedRequest(request_id=name, user_id=user, at=at, size=size, after=after)
    return ReceivedRequest(request, at, MessageOffset((TOPIC, 0), offset if offset is not None else abs(hash(name))))


def admitted(_asked: MergedRequest) -> None:
    """Nobody is refused."""


def names(chosen: Sequence[tuple[MergedRequest, Refusal | None]]) -> list[list[str]]:
    return [asked.request_ids for asked, _ in chosen]


def test_requests_of_one_user_that_want_the_same_are_one_computation_of_the_newest() -> None:
    waiting = [taken("a", at=T0), taken("b", user="1", at=T0 + 2), taken("c", at=T0 + 1)]
    ((asked,),) = merge(waiting).values()
    assert asked.request.request_id == "b"
    assert asked.request_ids == ["b", "c", "a"]
    assert asked.arrived_ms == T0 + 2


def test_requests_that_differ_in_what_they_want_or_who_asks_are_computed_apart() -> None:
    found = merge([taken("a"), taken("b", size=5), taken("c", user=2), taken("d", after="a"), taken("e", after="b")])
    assert {user: [each.request_ids for each in asked] for user, asked in found.items()} == {
        "1": [["a"], ["b"], ["d"], ["e"]],
        "2": [["c"]],
    }


def test_two_wishes_of_a_viewer_are_computed_one_after_the_other_the_older_first() -> None:
    waiting = RequestQueue()
    waiting.add([taken("late", at=T0 + 1, size=5), taken("early", at=T0), taken("other", user=2)])
    assert names(waiting.take(16, (), admitted)) == [["early"], ["other"]]
    assert names(waiting.take(16, {"1", "2"}, admitted)) == []
    assert names(waiting.take(16, (), admitted)) == [["late"]]
    assert len(waiting) == 0


def test_what_comes_while_a_viewer_is_busy_joins_what_waits() -> None:
    waiting = RequestQueue()
    waiting.add([taken("a")])
    assert names(waiting.take(16, {"1"}, admitted)) == []
    waiting.add([taken("b", at=T0 + 1)])
    assert names(waiting.take(16, (), admitted)) == [["b", "a"]]


def test_no_more_than_fit_a_batch_are_taken_and_those_who_came_first_are_first() -> None:
    waiting = RequestQueue()
    waiting.add([taken(str(user), user=user) for user in range(1, 6)] + [taken("again", user=1)])
    assert names(waiting.take(2, (), admitted)) == [["1", "again"], ["2"]]
    assert names(waiting.take(2, (), admitted)) == [["3"], ["4"]]


def test_what_is_refused_takes_nobodys_room() -> None:
    late = Refusal("failed", "late")
    waiting = RequestQueue()
    waiting.add([taken(str(user), user=user) for user in range(1, 6)])
    chosen = waiting.take(1, (), lambda asked: late if int(asked.viewer) % 2 else None)
    assert [(asked.viewer, refusal) for asked, refusal in chosen] == [
        ("1", late),
        ("2", None),
        ("3", late),
        ("5", late),
    ]
    assert len(waiting) == 1


def test_what_another_worker_reads_now_is_let_go() -> None:
    waiting = RequestQueue()
    request = FeedRequest(request_id="r", user_id=1, at=T0)
    waiting.add([ReceivedRequest(request, T0, MessageOffset((TOPIC, part), 0)) for part in range(3)])
    waiting.forget({(TOPIC, 0), (TOPIC, 2)})
    ((asked, _),) = waiting.take(16, (), admitted)
    assert [each.message.partition for each in asked.received] == [(TOPIC, 1)]


requests = st.lists(
    st.builds(
        lambda user, at, size: (user, at, size),
        st.sampled_from([1, "1", 2, "did:plc:a"]),
        st.integers(T0, T0 + 5),
        st.sampled_from([None, 5]),
    )
)


@given(requests, st.integers(1, 4))
def test_every_request_is_taken_exactly_once_and_a_viewers_never_side_by_side_or_out_of_order(
    made: list[tuple[int | str, int, int | None]], limit: int
) -> None:
    waiting = RequestQueue()
    waiting.add([taken(str(i), user, at, size, offset=i) for i, (user, at, size) in enumerate(made)])
    answered: list[str] = []
    times: dict[str, int] = {}
    while chosen := waiting.take(limit, (), admitted):
        assert len(chosen) <= limit
        viewers = [asked.viewer for asked, _ in chosen]
        assert len(set(viewers)) == len(viewers)
        for asked, _ in chosen:
            assert asked.request.at == max(each.request.at for each in asked.received)
            assert asked.request.at >= times.get(asked.viewer, 0)
            times[asked.viewer] = asked.request.at
            answered += asked.request_ids
    assert sorted(answered, key=int) == [str(i) for i in range(len(made))]
