import itertools
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from feed_worker.serving.admission import Refusal
from feed_worker.serving.offsets import MessageOffset
from feed_worker.serving.request_queue import (
    MAX_COMPUTATIONS,
    MAX_MERGED,
    MAX_REQUESTS,
    Chosen,
    ReceivedRequest,
    RequestQueue,
)
from thunder_ingest.events import FeedRequest

T0 = 1_700_000_000_000
TOPIC = "feed-requests"
next_offset = itertools.count().__next__


def received(
    name: str,
    user: int | str = 1,
    arrived: int = T0,
    size: int | None = None,
    offset: int | None = None,
    after: str | None = None,
    at: int = T0,
    deadline_ms: int | None = None,
) -> ReceivedRequest:
    request = FeedRequest(request_id=name, user_id=user, at=at, size=size, after=after, deadline_ms=deadline_ms)
    place = MessageOffset((TOPIC, 0), next_offset() if offset is None else offset)
    return ReceivedRequest(request, arrived, arrived, arrived, place, 10)


def admitted(_asked: ReceivedRequest) -> None:
    """Admit every request."""


def names(chosen: Sequence[Chosen]) -> list[list[str]]:
    return [merged.request_ids for merged, _ in chosen]


def queue_of(*requests: ReceivedRequest) -> RequestQueue:
    queue = RequestQueue()
    queue.add(requests)
    return queue


def test_equal_requests_of_one_viewer_are_one_computation_of_the_newest() -> None:
    queue = queue_of(received("a"), received("b", user="1", arrived=T0 + 1), received("c", arrived=T0 + 2))
    ((merged, _),) = queue.take(16, (), admitted)
    assert merged.request.request_id == "c"
    assert merged.request_ids == ["c", "b", "a"]
    assert merged.newest.waits_since_ms == T0 + 2


def test_requests_of_different_options_or_viewers_are_not_merged() -> None:
    queue = queue_of(
        received("a"), received("b", size=5), received("c", user=2), received("d", after="a"), received("e", after="b")
    )
    rounds = []
    while chosen := queue.take(16, (), admitted):
        rounds.append(names(chosen))
    assert rounds == [[["a"], ["c"]], [["b"]], [["d"]], [["e"]]]


def test_different_requests_of_a_viewer_are_computed_one_after_the_other_in_the_order_of_their_arrival() -> None:
    """The clocks of apps do not matter."""
    queue = queue_of(
        received("early", arrived=T0, at=T0 + 60_000), received("late", arrived=T0 + 1, size=5), received("b", user=2)
    )
    assert names(queue.take(16, (), admitted)) == [["early"], ["b"]]
    assert names(queue.take(16, {"1", "2"}, admitted)) == []
    assert names(queue.take(16, (), admitted)) == [["late"]]
    assert len(queue) == queue.bytes == 0


def test_a_request_that_arrives_while_its_viewer_is_busy_is_merged_with_queued_ones() -> None:
    queue = RequestQueue()
    queue.add([received("a")])
    assert names(queue.take(16, {"1"}, admitted)) == []
    queue.add([received("b", arrived=T0 + 1)])
    assert names(queue.take(16, (), admitted)) == [["b", "a"]]


def test_a_batch_takes_at_most_its_limit_in_order_of_arrival() -> None:
    queue = RequestQueue()
    queue.add([received(str(user), user=user) for user in range(1, 6)] + [received("again", user=1)])
    assert names(queue.take(2, (), admitted)) == [["again", "1"], ["2"]]
    assert names(queue.take(2, (), admitted)) == [["3"], ["4"]]


def test_refused_requests_do_not_count_for_the_limit() -> None:
    late = Refusal("failed", "late")
    queue = RequestQueue()
    queue.add([received(str(user), user=user) for user in range(1, 6)])
    chosen = queue.take(1, (), lambda each: late if int(each.viewer) % 2 else None)
    assert [(merged.viewer, refusal) for merged, refusal in chosen] == [
        ("1", late),
        ("2", None),
        ("3", late),
        ("5", late),
    ]
    assert len(queue) == 1


def test_requests_of_revoked_partitions_are_dropped() -> None:
    queue = RequestQueue()
    request = FeedRequest(request_id="r", user_id=1, at=T0)
    places = [MessageOffset((TOPIC, part), 0) for part in range(3)]
    queue.add([ReceivedRequest(request, T0, T0, T0, place) for place in places])
    for place in places:
        queue.refuse(ReceivedRequest(request, T0, T0, T0, place), Refusal("failed", "no"))
    queue.forget({(TOPIC, 0), (TOPIC, 2)})
    (refused, _), (merged, _) = queue.take(16, (), admitted)
    for each in (refused, merged):
        assert [received.message.partition for received in each.received] == [(TOPIC, 1)]


def test_one_viewer_with_many_requests_keeps_a_bounded_share_and_the_others_get_their_turn() -> None:
    queue = queue_of(*(received(str(number), arrived=T0 + number, size=number) for number in range(1, 200)))
    queue.add([received(f"of {user}", user=user, arrived=T0 + 300) for user in range(2, 12)])
    assert queue.computations == MAX_COMPUTATIONS + 10
    chosen = queue.take(16, {"1"}, admitted)
    refused = {each for merged, refusal in chosen if refusal for each in merged.request_ids}
    assert refused == {str(number) for number in range(MAX_COMPUTATIONS + 1, 200)}
    assert all(len(merged.received) <= MAX_MERGED for merged, _ in chosen)
    assert [merged.viewer for merged, refusal in chosen if not refusal] == [str(user) for user in range(2, 12)]
    turns = [names(queue.take(16, (), admitted)) for _ in range(MAX_COMPUTATIONS)]
    assert turns == [[[str(number)]] for number in range(1, MAX_COMPUTATIONS + 1)]
    assert len(queue) == 0


def test_equal_requests_beyond_a_viewers_share_are_refused_and_the_rest_is_merged_in_parts() -> None:
    queue = queue_of(*(received(str(number), arrived=T0 + number) for number in range(MAX_REQUESTS + 5)))
    (first, refusal), (merged, none) = queue.take(16, (), admitted)
    assert (len(first.received), len(merged.received), none) == (5, MAX_MERGED, None)
    assert refusal is not None
    assert refusal.reason.startswith("too many requests of this viewer wait")


def test_what_is_overdue_is_refused_at_once_also_of_a_busy_viewer() -> None:
    queue = queue_of(*(received(str(number), arrived=T0 + number, size=number) for number in range(1, 7)))

    def late(each: ReceivedRequest) -> Refusal | None:
        return Refusal("failed", "late") if each.waits_since_ms < T0 + 4 else None

    assert names(queue.take(16, {"1"}, late)) == [["1"], ["2"], ["3"]]
    assert names(queue.take(16, (), late)) == [["4"]]


def past_deadline(each: ReceivedRequest) -> Refusal | None:
    """Refuse by the request's own deadline, at T0 + 10."""
    is_late = each.request.deadline_ms is not None and each.request.at + each.request.deadline_ms < T0 + 10
    return Refusal("expired", f"{each.request.request_id} is late") if is_late else None


def test_a_request_past_its_deadline_expires_no_equal_request() -> None:
    for deadlines in ((None, 1), (1, None), (1, 5_000), (1, 5, None, 2)):
        queue = queue_of(
            *(received(str(n), arrived=T0 + n, deadline_ms=deadline) for n, deadline in enumerate(deadlines))
        )
        late = [str(n) for n, deadline in enumerate(deadlines) if deadline and deadline < 10][::-1]
        chosen = queue.take(16, (), past_deadline)
        assert names(chosen) == [late, [str(n) for n in range(len(deadlines)) if str(n) not in late]]
        assert [refusal and refusal.reason for _, refusal in chosen] == [f"{late[0]} is late", None]
        assert len(queue) == queue.bytes == queue.computations == 0


def test_an_expired_request_of_a_busy_viewer_is_refused_and_its_equals_keep_waiting() -> None:
    queue = queue_of(received("a", deadline_ms=1), received("b"), received("c", deadline_ms=2))
    assert names(queue.take(16, {"1"}, past_deadline)) == [["c", "a"]]
    assert (len(queue), queue.computations) == (1, 1)
    assert names(queue.take(16, (), past_deadline)) == [["b"]]


def test_a_request_that_has_waited_too_long_is_answered_with_a_newer_one() -> None:
    queue = queue_of(received("old"), received("new", arrived=T0 + 9))
    overloaded = Refusal("failed", "overloaded")
    assert names(queue.take(16, (), lambda each: overloaded if each.arrived_ms == T0 else None)) == [["new", "old"]]


def test_a_viewer_with_several_requests_gets_its_next_turn_after_the_others() -> None:
    queue = queue_of(received("a"), received("b", size=2), received("c", user=2), received("d", user=3))
    assert [names(queue.take(1, (), admitted)) for _ in range(4)] == [[["a"]], [["c"]], [["d"]], [["b"]]]


requests = st.lists(
    st.tuples(st.sampled_from([1, "1", 2, "did:plc:a"]), st.integers(T0, T0 + 5), st.sampled_from([None, 5, 6, 7]))
)


@given(requests, st.integers(1, 4))
def test_every_request_is_taken_once_and_those_of_a_viewer_one_at_a_time_in_order(
    made: list[tuple[int | str, int, int | None]], limit: int
) -> None:
    queue = RequestQueue()
    queue.add([received(str(i), user, T0 + i // 3, size, i, at=at) for i, (user, at, size) in enumerate(made)])
    answered: list[str] = []
    arrivals: dict[str, tuple[int, int]] = {}
    while chosen := queue.take(limit, (), admitted):
        assert len(chosen) <= limit
        viewers = [merged.viewer for merged, _ in chosen]
        assert len(set(viewers)) == len(viewers)
        for merged, _ in chosen:
            assert merged.newest.order == max(each.order for each in merged.received)
            assert merged.newest.order > arrivals.get(merged.viewer, (0, -1))
            arrivals[merged.viewer] = merged.newest.order
            answered += merged.request_ids
    assert sorted(answered, key=int) == [str(i) for i in range(len(made))]
    assert len(queue) == queue.bytes == 0
