from hypothesis import given
from hypothesis import strategies as st

from feed_worker.worker import merged
from thunder_ingest.events import FeedRequest
from thunder_ingest.ids import published_form

T0 = 1_700_000_000_000


def request(name: str, user: int | str = 1, at: int = T0, size: int | None = None) -> FeedRequest:
    return FeedRequest(request_id=name, user_id=user, at=at, size=size)


def test_requests_of_one_user_that_want_the_same_are_one_computation_of_the_newest() -> None:
    (asked,) = merged([request("a", at=T0), request("b", user="1", at=T0 + 2), request("c", at=T0 + 1)])
    assert asked.request.request_id == "b"
    assert sorted(asked.answers) == ["a", "b", "c"]


def test_requests_that_differ_in_what_they_want_or_who_asks_are_computed_apart() -> None:
    asked = merged([request("a"), request("b", size=5), request("c", user=2)])
    assert sorted(each.answers for each in asked) == [["a"], ["b"], ["c"]]


requests = st.lists(
    st.builds(
        FeedRequest,
        request_id=st.uuids().map(str),
        user_id=st.sampled_from([1, "1", 2, "did:plc:a"]),
        at=st.integers(T0, T0 + 5),
        size=st.sampled_from([None, 5]),
    ),
    unique_by=lambda each: each.request_id,
)


@given(requests)
def test_every_request_is_answered_exactly_once_and_the_newest_of_a_user_last(waiting: list[FeedRequest]) -> None:
    asked = merged(waiting)
    assert sorted(name for each in asked for name in each.answers) == sorted(each.request_id for each in waiting)
    for user in {published_form(each.user_id) for each in waiting}:
        times = [each.request.at for each in asked if published_form(each.request.user_id) == user]
        assert times == sorted(times)
        assert times[-1] == max(each.at for each in waiting if published_form(each.user_id) == user)
