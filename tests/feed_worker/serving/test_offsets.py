from random import Random

from hypothesis import given
from hypothesis import strategies as st

from feed_worker.serving.offsets import MessageOffset, Offsets, Partition

PARTS = [("feed-requests", number) for number in range(3)]


@given(st.lists(st.tuples(st.sampled_from(PARTS), st.integers(1, 3))), st.randoms(use_true_random=False))
def test_an_offset_is_committed_only_after_all_messages_before_it_are_done(
    steps: list[tuple[Partition, int]], random: Random
) -> None:
    offsets, next_ = Offsets(), dict.fromkeys(PARTS, 0)
    places: list[MessageOffset] = []
    for part, gap in steps:
        next_[part] += gap  # offsets of a log need not be consecutive
        places.append(MessageOffset(part, next_[part]))
    offsets.received(places)
    not_done, committed = set(places), dict.fromkeys(PARTS, 0)
    random.shuffle(places)
    while places:
        batch = [places.pop() for _ in range(random.randint(1, len(places)))]
        not_done -= set(batch)
        for part, offset in offsets.done(batch).items():
            assert offset > committed[part]
            committed[part] = offset
        for part in PARTS:
            first = min((place.offset for place in not_done if place.partition == part), default=None)
            assert offsets.first_open(part) == first
            assert first is None or committed[part] <= first
    assert committed == {part: last and last + 1 for part, last in next_.items()}


def test_messages_of_a_revoked_partition_are_not_committed() -> None:
    offsets = Offsets()
    there, gone = MessageOffset(PARTS[0], 5), MessageOffset(PARTS[1], 7)
    offsets.received([there, gone])
    offsets.forget([PARTS[1]])
    assert offsets.done([there, gone]) == {PARTS[0]: 6}


def test_a_partition_that_is_assigned_again_commits_only_messages_done_since() -> None:
    offsets = Offsets()
    offsets.received([MessageOffset(PARTS[0], offset) for offset in (5, 6)])
    offsets.forget([PARTS[0]])
    offsets.received([MessageOffset(PARTS[0], offset) for offset in (5, 6, 7)])
    assert offsets.done([MessageOffset(PARTS[0], 6)]) == {}
    assert offsets.done([MessageOffset(PARTS[0], 5)]) == {PARTS[0]: 7}
