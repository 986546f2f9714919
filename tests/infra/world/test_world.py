"""The generated world: all events are valid, and their order is consistent."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from infra.world import World, WorldConfig, generate
from infra.world.exposure import Timeline
from infra.world.people import draw_accounts
from infra.world.posts import NEVER
from infra.world.social import Pairs
from infra.world.topics import LANGUAGES, TOPICS
from thunder_ingest import events
from thunder_ingest.events import (
    ACTIONS,
    KINDS,
    Block,
    Engagement,
    Follow,
    Impression,
    Mute,
    MuteKeyword,
    PostCreated,
    PostDeleted,
    PostLabeled,
    Subscribe,
    Unblock,
    Unfollow,
    Unmute,
    UnmuteKeyword,
    Unsubscribe,
)

NOW = 1_790_000_000_000

SMALL = st.builds(
    WorldConfig,
    seed=st.integers(0, 2**32),
    users=st.integers(1, 25),
    authors=st.integers(1, 10),
    posts=st.integers(1, 80),
    topics=st.integers(1, len(TOPICS)),
    engagements=st.integers(0, 600),
    span_ms=st.sampled_from([60_000, 3_600_000, 7 * 86_400_000]),
)
DEFAULT = generate(WorldConfig(), NOW)
few = settings(max_examples=40, deadline=None)


def worlds(test: Callable[[World], None]) -> Callable[[], None]:
    """Run a test on small random worlds, which can lack any kind of event, and on the default one, which has all."""
    return few(given(world=SMALL.map(lambda config: generate(config, NOW)))(example(world=DEFAULT)(test)))


@pytest.fixture
def world() -> World:
    return DEFAULT


def created(world: World) -> dict[Any, PostCreated]:
    return {event.post_id: event for event in world.posts if isinstance(event, PostCreated)}


def of_type(world: World, *types: type) -> Iterator[Any]:
    return (event for event in world.events() if isinstance(event, types))


# --- determinism -----------------------------------------------------------------------------------------------------


@few
@given(config=SMALL)
def test_equal_configurations_give_equal_worlds(config: WorldConfig) -> None:
    assert list(generate(config, NOW).events()) == list(generate(config, NOW).events())


@few
@given(config=SMALL, later_ms=st.integers(1, 10**9))
def test_another_end_only_shifts_all_times(config: WorldConfig, later_ms: int) -> None:
    shifted = list(generate(config, NOW + later_ms).events())
    for event in shifted:
        event.at -= later_ms
    assert shifted == list(generate(config, NOW).events())


def test_another_seed_gives_another_world(world: World) -> None:
    assert generate(WorldConfig(seed=1), NOW).engagements != world.engagements


# --- events ----------------------------------------------------------------------------------------------------------


@worlds
def test_every_event_is_unchanged_after_encoding_and_decoding(world: World) -> None:
    for event in world.events():
        assert events.decode(events.topic_of(event), events.encode(event)) == event


@worlds
def test_events_are_sorted_by_time_and_lie_in_the_span(world: World) -> None:
    times = [event.at for event in world.events()]
    assert times == sorted(times)
    assert len(times) == len(world.posts) + len(world.engagements) + len(world.graph)
    assert NOW - world.config.span_ms < times[0] <= times[-1] <= NOW


def test_a_world_has_the_configured_size(world: World) -> None:
    assert len(created(world)) == 2_000
    assert 19_000 <= len(world.engagements) <= 21_000
    assert sorted(world.viewers) == list(range(1, 201))
    assert {event.user_id for event in world.engagements} >= set(world.viewers)


def test_the_most_active_viewers_come_first(world: World) -> None:
    seen = Counter(event.user_id for event in of_type(world, Impression))
    counts = [seen[viewer] for viewer in world.viewers]
    assert counts == sorted(counts, reverse=True)


def test_every_kind_of_event_and_action_occurs(world: World) -> None:
    types = {type(event) for event in world.events()}
    assert types == {
        *(PostCreated, PostDeleted, PostLabeled, Impression, Engagement, MuteKeyword, UnmuteKeyword),
        *(Follow, Unfollow, Block, Unblock, Mute, Unmute, Subscribe, Unsubscribe),
    }
    assert {event.action for event in of_type(world, Engagement)} == set(ACTIONS)
    assert any(event.undo for event in of_type(world, Engagement))
    assert any(event.removed for event in of_type(world, PostLabeled))


def test_posts_are_of_every_kind_language_and_medium(world: World) -> None:
    posts = created(world).values()
    assert {post.kind for post in posts} == set(KINDS)
    assert {post.lang for post in posts} == set(LANGUAGES)
    assert {post.photos for post in posts} >= {None, 1, 4}
    durations = [post.video_ms for post in posts if post.video_ms]
    assert min(durations) < 10_000 < max(durations)
    assert any(post.subscriber_only for post in posts)
    labels = {event.label for event in of_type(world, PostLabeled)}
    assert {"spam", "adult"} <= labels


def test_viewers_write_too(world: World) -> None:
    assert {post.author_id for post in created(world).values()} & set(world.viewers)


# --- consistency -----------------------------------------------------------------------------------------------------


@worlds
def test_the_parent_of_a_post_exists_and_has_the_right_ids(world: World) -> None:
    posts = created(world)
    for post in posts.values():
        if post.kind == "reply":
            parent = posts[post.in_reply_to_post_id]
            assert (parent.author_id, parent.kind != "repost") == (post.in_reply_to_author_id, True)
            root = posts[post.conversation_id]
            assert root.kind != "reply"
            assert post.conversation_id == (parent.conversation_id or parent.post_id)
        elif post.kind in ("repost", "quote"):
            parent = posts[post.source_post_id]
            assert (parent.author_id, parent.kind != "repost") == (post.source_author_id, True)
        else:
            continue
        assert parent.at <= post.at


@worlds
def test_a_post_has_impressions_only_between_creation_and_deletion(world: World) -> None:
    posts, gone = created(world), {event.post_id: event.at for event in of_type(world, PostDeleted)}
    for event in world.engagements:
        post = posts[event.post_id]
        assert (post.at <= event.at, event.author_id) == (True, post.author_id)
        if isinstance(event, Impression):
            assert event.at < gone.get(event.post_id, NOW + 1)
            assert event.at < gone.get(post.source_post_id, NOW + 1) or post.kind != "repost"


@worlds
def test_an_engagement_has_an_earlier_impression(world: World) -> None:
    seen: set[tuple[Any, Any]] = set()
    for event in world.engagements:
        if isinstance(event, Impression):
            seen.add((event.user_id, event.post_id))
        assert (event.user_id, event.post_id) in seen


@worlds
def test_an_undo_has_an_earlier_engagement(world: World) -> None:
    done: set[tuple[Any, ...]] = set()
    for event in of_type(world, Engagement):
        act = (event.user_id, event.post_id, event.action)
        assert not event.undo or act in done
        done.add(act)


@worlds
def test_only_existing_edges_end(world: World) -> None:
    begun: Counter[tuple[type, Any, Any]] = Counter()
    ends = {Unfollow: Follow, Unblock: Block, Unmute: Mute, Unsubscribe: Subscribe, UnmuteKeyword: MuteKeyword}
    for event in world.graph:
        kind = ends.get(type(event), type(event))
        other = event.keyword if isinstance(event, MuteKeyword | UnmuteKeyword) else event.target_id
        begun[kind, event.user_id, other] += 1 if kind is type(event) else -1
    assert all(count >= 0 for count in begun.values())


@worlds
def test_a_viewer_sees_no_posts_of_muted_blocked_or_blocking_accounts(world: World) -> None:
    posts = created(world)
    hidden: set[tuple[Any, Any]] = set()
    for event in world.events():
        if isinstance(event, Mute | Block):
            hidden.add((event.user_id, event.target_id))
        if isinstance(event, Block):
            hidden.add((event.target_id, event.user_id))
        if isinstance(event, Impression):
            assert (event.user_id, event.author_id) not in hidden
            source = posts[event.post_id]
            assert source.kind != "repost" or (event.user_id, source.source_author_id) not in hidden


@worlds
def test_only_subscribers_see_posts_for_subscribers(world: World) -> None:
    posts = created(world)
    subscribed: set[tuple[Any, Any]] = set()
    for event in sorted(world.events(), key=lambda event: (event.at, isinstance(event, Impression))):
        if isinstance(event, Subscribe):
            subscribed.add((event.user_id, event.target_id))
        elif isinstance(event, Unsubscribe):
            subscribed.discard((event.user_id, event.target_id))
        elif isinstance(event, Impression) and posts[event.post_id].subscriber_only:
            assert (event.user_id, event.author_id) in subscribed


@worlds
def test_feeds_show_no_own_posts_and_no_content_twice(world: World) -> None:
    posts, seen = created(world), set()
    for event in of_type(world, Impression):
        if event.request_id is None:
            continue
        post = posts[event.post_id]
        content = post.source_post_id if post.kind == "repost" else post.post_id
        assert event.user_id not in (event.author_id, posts[content].author_id)
        assert (event.user_id, content) not in seen
        seen.add((event.user_id, content))


@worlds
def test_a_session_goes_from_top_to_bottom(world: World) -> None:
    sessions = defaultdict(list)
    for event in of_type(world, Impression):
        if event.request_id:
            sessions[event.request_id].append(event)
    for session in sessions.values():
        assert len({event.user_id for event in session}) == 1
        assert all(above.position < below.position for above, below in pairwise(session))


def test_follows_blocks_and_mutes_on_posts_change_the_graph(world: World) -> None:
    edge = {"follow_author": Follow, "block_author": Block, "mute_author": Mute}
    graph = {(type(event), event.user_id, event.target_id) for event in of_type(world, *edge.values())}
    acts = [act for act in of_type(world, Engagement) if act.action in edge]
    assert acts
    assert all((edge[act.action], act.user_id, act.author_id) in graph for act in acts)


def test_each_reply_repost_and_quote_is_an_engagement_with_its_parent(world: World) -> None:
    acts = {(act.user_id, act.post_id, act.action, act.at) for act in of_type(world, Engagement)}
    for post in created(world).values():
        answered = post.in_reply_to_post_id or post.source_post_id
        assert post.kind == "original" or (post.author_id, answered, post.kind, post.at) in acts


# --- ground truth ----------------------------------------------------------------------------------------------------


def affinities(world: World, action: str) -> np.ndarray[Any, Any]:
    pairs = [(act.user_id, act.post_id) for act in of_type(world, Engagement) if act.action == action and not act.undo]
    return np.array([world.affinity([user], [post])[0, 0] for user, post in pairs])


def test_affinity_is_a_float32_of_each_viewer_for_each_post(world: World) -> None:
    affinity = world.affinity(world.viewers[:7], list(created(world))[:9])
    assert affinity.shape == (7, 9)
    assert affinity.dtype == np.float32
    assert (affinity >= 0).all()
    assert (affinity <= 1).all()


def test_favorites_have_a_high_affinity_and_negative_feedback_a_low_one(world: World) -> None:
    seen = [(event.user_id, event.post_id) for event in of_type(world, Impression) if event.request_id]
    shown = np.array([world.affinity([user], [post])[0, 0] for user, post in seen[::5]])
    by_chance = world.affinity(world.viewers, list(created(world)))
    assert affinities(world, "not_interested").mean() < shown.mean() < affinities(world, "favorite").mean()
    assert by_chance.mean() < 0.5 * shown.mean()


def test_dwell_time_grows_with_affinity(world: World) -> None:
    dwells = [act for act in of_type(world, Engagement) if act.action == "dwell_time"]
    affinity = np.array([world.affinity([act.user_id], [act.post_id])[0, 0] for act in dwells])
    assert np.corrcoef(affinity, np.log([act.dwell_ms for act in dwells]))[0, 1] > 0.2


def test_the_top_of_a_feed_gets_more_favorites_than_the_bottom(world: World) -> None:
    position = {(e.user_id, e.post_id): e.position for e in of_type(world, Impression) if e.request_id}
    favorites = Counter(
        position[act.user_id, act.post_id] < 3
        for act in of_type(world, Engagement)
        if act.action == "favorite" and act.request_id and not act.undo
    )
    places = Counter(place < 3 for place in position.values())
    assert favorites[True] / places[True] > 1.3 * favorites[False] / places[False]


def test_few_authors_have_most_of_the_followers(world: World) -> None:
    followers = Counter(event.target_id for event in of_type(world, Follow))
    assert sum(count for _, count in followers.most_common(28)) > 0.4 * followers.total()


def test_follows_prefer_accounts_with_common_interests(world: World) -> None:
    accounts = range(1, 281)
    taste = {account: set(world.interests(account)) for account in accounts}
    followed = np.mean([bool(taste[f.user_id] & taste[f.target_id]) for f in of_type(world, Follow)])
    all_pairs = np.mean([bool(taste[one] & taste[other]) for one in accounts for other in accounts if one != other])
    assert followed > 1.3 * all_pairs


def test_some_tastes_drift() -> None:
    accounts = draw_accounts(np.random.default_rng(1), WorldConfig(users=500))
    drifted = (accounts.early != accounts.late).any(axis=1)
    assert 0.1 < drifted.mean() < 0.4
    assert np.allclose(accounts.late.sum(axis=1), 1)
    middle = accounts.tastes(np.arange(580), 0.5)
    assert np.allclose(middle, (accounts.early + accounts.late) / 2)


# --- texts -----------------------------------------------------------------------------------------------------------


def test_a_post_has_words_of_its_topic(world: World) -> None:
    words = {word.casefold() for topic in TOPICS for in_language in topic.words for word in in_language}
    for post in list(created(world))[::7]:
        assert any(word in world.text(int(post)).casefold() for word in words)


def test_a_repost_has_the_text_of_its_source_and_publishes_none(world: World) -> None:
    for post in created(world).values():
        if post.kind == "repost":
            assert post.text is None
            assert post.source_post_id is not None
            assert world.text(int(post.post_id)) == world.text(int(post.source_post_id))
        else:
            assert post.text == world.text(int(post.post_id))


def test_a_reply_begins_with_the_handle_of_the_parents_author(world: World) -> None:
    replies = [post for post in created(world).values() if post.kind == "reply"]
    assert all(
        post.text and post.text.startswith(f"@{world.name(int(str(post.in_reply_to_author_id)))} ") for post in replies
    )


def test_no_two_topics_share_a_word() -> None:
    for language in range(len(LANGUAGES)):
        words = Counter(word.casefold() for topic in TOPICS for word in topic.words[language])
        assert set(words.values()) == {1}


def test_no_two_accounts_share_a_handle(world: World) -> None:
    assert len({world.name(account) for account in range(1, 281)}) == 280


def test_every_account_has_one_to_four_interests(world: World) -> None:
    names = {topic.name for topic in TOPICS}
    for account in range(1, 281):
        assert 1 <= len(world.interests(account)) <= 4
        assert set(world.interests(account)) <= names


def test_a_world_with_fewer_topics_uses_only_these() -> None:
    world = generate(WorldConfig(topics=2), NOW)
    assert {topic for account in range(1, 281) for topic in world.interests(account)} == {"astronomy", "football"}


# --- errors ----------------------------------------------------------------------------------------------------------


def test_errors_name_unknown_ids(world: World) -> None:
    with pytest.raises(KeyError, match="no account 9000 in this world"):
        world.name(9_000)
    with pytest.raises(KeyError, match="no post 3 in this world"):
        world.text(3)
    with pytest.raises(KeyError, match="no account 0 in this world"):
        world.affinity([1, 0], [1_000_001])


@pytest.mark.parametrize("size", ["users", "authors", "posts", "topics", "span_ms"])
def test_errors_name_a_size_out_of_range(size: str) -> None:
    with pytest.raises(ValueError, match=f"a world needs {size} of at least"):
        WorldConfig(**{size: 0})


def test_more_topics_than_the_maximum_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 16 topics, not 17"):
        WorldConfig(topics=17)


def test_a_world_cannot_begin_before_the_epoch() -> None:
    with pytest.raises(ValueError, match="after the epoch"):
        generate(WorldConfig(), 1_000)


# --- parts -----------------------------------------------------------------------------------------------------------


@given(
    posts=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 50)), min_size=1, max_size=30),
    queries=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 51)), min_size=1, max_size=30),
    seed=st.integers(0, 100),
)
def test_a_timeline_draws_earlier_posts_of_the_group(
    posts: list[tuple[int, int]], queries: list[tuple[int, int]], seed: int
) -> None:
    group, at = np.array(sorted(posts, key=lambda post: post[1])).T
    groups, moment = np.array(queries).T
    drawn = Timeline(group, at, 51).draw(np.random.default_rng(seed), groups, moment)
    for row, place in enumerate(drawn.tolist()):
        there = np.flatnonzero((group == groups[row]) & (at < moment[row]))
        assert place in there if len(there) else place == -1


@given(
    edges=st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(1, 30), st.integers(1, 30)), max_size=20
    ),
    user=st.integers(0, 4),
    target=st.integers(0, 4),
)
def test_pairs_have_the_first_edge_of_two_accounts(
    edges: list[tuple[int, int, int, int]], user: int, target: int
) -> None:
    columns = np.array(edges, np.int64).reshape(-1, 4).T
    pairs = Pairs(5, columns[0], columns[1], columns[2], columns[2] + columns[3])
    mine = sorted((at, at + length) for one, other, at, length in edges if (one, other) == (user, target))
    one, other = np.array([user]), np.array([target])
    assert pairs.since(one, other)[0] == (mine[0][0] if mine else NEVER)
    for moment in range(61):
        together = any(at == mine[0][0] and at <= moment < end for at, end in mine[:1])
        if len({at for at, _ in mine}) == len(mine):
            assert pairs.at(one, other, np.array([moment]))[0] == together
