from feed_worker.serving.arrivals import Arrivals

FIRST, OTHER = ("feed-requests", 0), ("feed-requests", 1)


def test_a_viewers_arrivals_never_go_back_and_the_times_of_the_history_differ() -> None:
    arrivals = Arrivals()
    found = [arrivals.in_order(FIRST, "ana", at) for at in (20, 10, 10, 30)]
    assert found == [(20, 20), (20, 21), (20, 22), (30, 30)]
    assert arrivals.in_order(FIRST, "bob", 10) == (10, 10)


def test_a_request_that_is_read_again_after_its_partition_returned_keeps_its_arrival() -> None:
    arrivals = Arrivals()
    earlier, later = (arrivals.in_order(FIRST, "ana", at) for at in (10, 20))
    arrivals.in_order(OTHER, "bob", 20)
    arrivals.forget([FIRST])
    assert [arrivals.in_order(FIRST, "ana", at) for at in (10, 20)] == [earlier, later]
    assert arrivals.in_order(OTHER, "bob", 10) == (20, 21)
