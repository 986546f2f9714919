from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from feed_worker.serving.admission import Refusal
from feed_worker.serving.offsets import MessageOffset
from feed_worker.serving.request_queue import MergedRequest, ReceivedRequest, RequestQueue, merge
from thunder_ingest.events import FeedRequest

T0 = 1_700_000_000_000
TOPIC = "feed-requests"


def received(
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
    """Admit every request."""


def names(chosen: Sequence[tuple[MergedRequest, Refusal | None]]) -> list[list[str]]:
    return [merged.request_ids for merged, _ in chosen]


def test_equal_requests_of_one_viewer_are_one_computation_of_the_newest() -> None:
    queue = [received("a", at=T0), received("b", user="1", at=T0 + 2), received("c", at=T0 + 1)]
    ((merged,),) = merge(queue).values()
    assert merged.request.request_id == "b"
    assert merged.request_ids == ["b", "c", "a"]
    assert merged.arrived_ms == T0 + 2


def test_requests_of_different_options_or_viewers_are_not_merged() -> None:
    found = merge(
        [
            received("a"),
            received("b", size=5),
            received("c", user=2),
            received("d", after="a"),
            received("e", after="b"),
        ]
    )
    assert {user: [each.request_ids for each in merged] for user, merged in found.items()} == {
        "1": [["a"], ["b"], ["d"], ["e"]],
        "2": [["c"]],
    }


def test_different_requests_of_a_viewer_are_computed_one_after_the_other_the_older_first() -> None:
    queue = RequestQueue()
    queue.add([received("late", at=T0 + 1, size=5), received("early", at=T0), received("other", user=2)])
    assert names(queue.take(16, (), admitted)) == [["early"], ["other"]]
    assert names(queue.take(16, {"1", "2"}, admitted)) == []
    assert names(queue.take(16, (), admitted)) == [["late"]]
    assert len(queue) == 0


def test_a_request_that_arrives_while_its_viewer_is_busy_is_merged_with_queued_ones() -> None:
    queue = RequestQueue()
    queue.add([received("a")])
    assert names(queue.take(16, {"1"}, admitted)) == []
    queue.add([received("b", at=T0 + 1)])
    assert names(queue.take(16, (), admitted)) == [["b", "a"]]


def test_a_batch_takes_at_most_its_limit_in_order_of_arrival() -> None:
    queue = RequestQueue()
    queue.add([received(str(user), user=user) for user in range(1, 6)] + [received("again", user=1)])
    assert names(queue.take(2, (), admitted)) == [["1", "again"], ["2"]]
    assert names(queue.take(2, (), admitted)) == [["3"], ["4"]]


def test_refused_requests_do_not_count_for_the_limit() -> None:
    late = Refusal("failed", "late")
    queue = RequestQueue()
    queue.add([received(str(user), user=user) for user in range(1, 6)])
    chosen = queue.take(1, (), lambda merged: late if int(merged.viewer) % 2 else None)
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
    queue.add([ReceivedRequest(request, T0, MessageOffset((TOPIC, part), 0)) for part in range(3)])
    queue.forget({(TOPIC, 0), (TOPIC, 2)})
    ((merged, _),) = queue.take(16, (), admitted)
    assert [each.message.partition for each in merged.received] == [(TOPIC, 1)]


requests = st.lists(
    st.builds(
        lambda user, at, size: (user, at, size),
        st.sampled_from([1, "1", 2, "did:plc:a"]),
        st.integers(T0, T0 + 5),
        st.sampled_from([None, 5]),
    )
)


@given(requests, st.integers(1, 4))
def test_every_request_is_taken_once_and_those_of_a_viewer_one_at_a_time_in_order(
    made: list[tuple[int | str, int, int | None]], limit: int
) -> None:
    queue = RequestQueue()
    queue.add([received(str(i), user, at, size, offset=i) for i, (user, at, size) in enumerate(made)])
    answered: list[str] = []
    times: dict[str, int] = {}
    while chosen := queue.take(limit, (), admitted):
        assert len(chosen) <= limit
        viewers = [merged.viewer for merged, _ in chosen]
        assert len(set(viewers)) == len(viewers)
        for merged, _ in chosen:
            assert merged.request.at == max(each.request.at for each in merged.received)
            assert merged.request.at >= times.get(merged.viewer, 0)
            times[merged.viewer] = merged.request.at
            answered += merged.request_ids
    assert sorted(answered, key=int) == [str(i) for i in range(len(made))]
