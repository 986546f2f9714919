import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feed_worker.candidates.query import Query
from feed_worker.experiments import Experiment, Experiments, Variant
from feed_worker.framework.pipeline import Pipeline
from feed_worker.parameters import FORYOU, PRESETS, Parameters
from feed_worker.pipeline import foryou_pipeline
from infra.ports.clock import MINUTE_MS
from phoenix.index.retrieval_index import VectorIndex
from phoenix.models.configs import NANO
from tests.feed_worker.builders import (
    NOW_MS,
    VIEWER,
    FixedModel,
    KnownUsers,
    fixed_predictions,
    post,
    query,
    seen_counts,
    store_of,
    viewer,
)
from tests.feed_worker.obvious import ObviousPipeline
from thunder_ingest.events import KINDS, Post
from thunder_ingest.posts.store import PostStore
from thunder_ingest.users.state import UserState

MAX_AGE_MS = 60 * MINUTE_MS
AUTHORS = range(1, 13)
SEEDS = st.integers(0, 2**32 - 1)
OTHER = "another checkpoint"
RANKERS = {"": fixed_predictions, OTHER: lambda post_id: fixed_predictions(post_id + 500)}


def some(rng: random.Random, values: Sequence[int], probability: float) -> list[int]:
    return [value for value in values if rng.random() < probability]


def world_of(seed: int, n: int) -> dict[int, Post]:
    """Posts of every kind that refer to each other and, sometimes, to missing posts."""
    rng = random.Random(seed)
    authors = {post_id: rng.choice(AUTHORS) for post_id in rng.sample(range(1, n + 3), n)}
    return {post_id: related_post(rng, post_id, authors) for post_id in authors}


def related_post(rng: random.Random, post_id: int, authors: dict[int, int]) -> Post:
    kind = rng.choice(("original", "original", *KINDS))
    other = rng.choice([known for known in range(1, len(authors) + 3) if known != post_id])
    fields: dict[str, Any] = {}
    if kind in ("repost", "quote"):
        fields = {"source_post_id": other, "source_author_id": rng.choice((0, authors.get(other, 0)))}
    if kind == "reply":
        fields = {"in_reply_to_post_id": other, "conversation_id": rng.choice((0, other, rng.choice([*authors])))}
    return post(
        post_id,
        authors[post_id],
        kind,
        text=" ".join(rng.choices(("cat", "dog", "the", "sat", "on", "mat"), k=rng.randrange(4))),
        created_at=NOW_MS - int(MAX_AGE_MS * rng.choice((0.25, 0.5, 0.5, rng.random(), 1, 1.01))),
        video_ms=rng.choice((0, 0, 10_000, 10_001)),
        lang=rng.choice(("", "en", "en-GB", "ga")),
        subscriber_only=rng.random() < 0.1,
        labels=rng.choice(((), (), (), (), ("spam",), ("adult",), ("satire",))),
        **fields,
    )


def viewer_of(seed: int, n: int) -> UserState:
    rng = random.Random(seed)
    others = [author for author in AUTHORS if author != VIEWER]
    return viewer(
        following=some(rng, others, rng.choice((0, 0.5, 0.8))),
        blocks=some(rng, others, rng.choice((0, 0, 0.1))),
        blocked_by=some(rng, others, rng.choice((0, 0, 0.1))),
        mutes=some(rng, others, rng.choice((0, 0, 0.1))),
        subscriptions=some(rng, others, 0.3),
        keywords=tuple(rng.choice(((), ("the cat",), ("dog", "!"), ("Mat", "on the")))),
        seen=some(rng, range(1, n), rng.choice((0, 0.1))),
        served=[(post_id, NOW_MS - 1) for post_id in some(rng, range(1, n), rng.choice((0, 0.1)))],
        liked=some(rng, range(1, n), rng.choice((0, 0.2))),
    )


def exact(preset: Parameters) -> Parameters:
    """The preset with weights of few bits: sums are exact in any order, so both implementations have the same ties."""
    weights = {action: round(64 * weight) / 64 for action, weight in preset.weights.items()}
    weights["dwell_time"] = 1000 * round(2**20 * preset.weights.get("dwell_time", 0) / 1000) / 2**20
    return replace(preset, weights=weights, negative_offset=2**-10)


@st.composite
def parameters(draw: st.DrawFn) -> Parameters:
    return replace(
        exact(PRESETS[draw(st.sampled_from(sorted(PRESETS)))]),
        top_k=draw(st.integers(1, 8)),
        result_size=draw(st.integers(1, 8)),
        max_candidates=draw(st.sampled_from((3, 2_800))),
        new_author_boost=draw(st.booleans()),
        new_author_slot=draw(st.integers(0, 6)),
        new_author_max_views=draw(st.sampled_from((1, 50, 1_000))),
        new_author_max_reach=draw(st.sampled_from((0, 100, 1_000))),
        new_author_top_share=draw(st.sampled_from((0.5, 0.85, 1.0))),
        dpp_pool=draw(st.sampled_from((0, 5, 150))),
        dpp_theta=draw(st.sampled_from((0.0, 0.65, 0.9))),
        checkpoint=draw(st.sampled_from(sorted(RANKERS))),
    )


@st.composite
def requests(draw: st.DrawFn) -> Query:
    return query(
        parameters=draw(parameters()),
        size=draw(st.integers(1, 12)),
        exclude_videos=draw(st.booleans()),
        langs=draw(st.sampled_from((None, ["en"], ["ga", "xx"]))),
        in_network_only=draw(st.booleans()),
        seen_ids=draw(st.lists(st.integers(1, 40), max_size=4)),
        explain=draw(st.booleans()),
    )


def vectors_of(post_ids: Iterable[int]) -> dict[int, np.ndarray]:
    """A vector for most posts, in one of sixteen directions of six dimensions: some similar, some not."""
    directions = np.zeros((16, NANO.embed_dim), np.float32)
    directions[:, :6] = np.random.default_rng(7).normal(size=(16, 6))
    return {post_id: directions[post_id * 7 % 16] for post_id in post_ids if post_id % 7}


def index_of(vectors: Mapping[int, np.ndarray]) -> VectorIndex:
    index = VectorIndex()
    stacked = np.array([*vectors.values()], np.float32).reshape(len(vectors), NANO.embed_dim)
    index.upsert(np.array([*vectors], np.int64), stacked, FixedModel.version)
    return index


def views_of(seed: int, world: Mapping[int, Post]) -> dict[int, int]:
    rng = random.Random(seed)
    return {post_id: rng.choice((0, 10, 60, 2_000)) for post_id in world if rng.random() < 0.8}


def pipeline_over(store: PostStore, index: VectorIndex, users: dict[str, UserState]) -> Pipeline:
    """The pipeline with the rankers of RANKERS; each fails if it gets the candidates of another."""
    models = {checkpoint: FixedModel(predict, version=checkpoint) for checkpoint, predict in RANKERS.items()}
    models[""].version = FixedModel.version
    return foryou_pipeline(store, index, models.pop(""), KnownUsers(users), models)


def found_by_sources(store: PostStore, index: VectorIndex, asked: Query, state: UserState) -> list[int]:
    """The candidates of the pipeline's sources, called one after another."""
    probe = query(state, user_id=asked.user_id, parameters=asked.parameters)
    pipeline = pipeline_over(store, index, {asked.user_form: state})
    probe.request = asked.request
    for hydrator in pipeline.query_hydrators:
        for name, value in hydrator.hydrate([probe])[0].items():
            setattr(probe, name, value)
    found: list[int] = []
    for source in pipeline.sources:
        probe.found = len(found)
        if source.enable(probe):
            found += source.fetch([probe])[0].candidates.posts.post_id.tolist()
    return found


@settings(max_examples=200)
@given(SEEDS, st.integers(1, 60), requests())
def test_the_columns_give_the_same_feed_as_the_reference_of_one_object_at_a_time(
    seed: int, n: int, asked: Query
) -> None:
    world, state = world_of(seed, n), viewer_of(seed, n)
    vectors, views = vectors_of(sorted(world)), views_of(seed, world)
    store, index = store_of(*world.values(), max_age_ms=MAX_AGE_MS), index_of(vectors)
    store.apply_counts(seen_counts(views))
    found = found_by_sources(store, index, asked, state)
    (result,) = pipeline_over(store, index, {"1": state}).run([asked])
    assert [each for each in result.query.degradations if "no vectors" not in each] == []
    expected = ObviousPipeline(world, MAX_AGE_MS, views, vectors, RANKERS).feed(asked, found)
    assert result.candidates.posts.post_id.tolist() == [post_id for post_id, _ in expected]
    assert result.candidates.score.tolist() == pytest.approx([score for _, score in expected], rel=1e-12)
    assert result.status == ("ok" if expected else "empty")


@settings(max_examples=30)
@given(SEEDS, st.lists(requests(), min_size=2, max_size=4))
def test_a_request_gets_the_same_feed_alone_and_in_a_batch(seed: int, drawn: list[Query]) -> None:
    world = world_of(seed, 40)
    store, index = store_of(*world.values(), max_age_ms=MAX_AGE_MS), index_of(vectors_of(sorted(world)))
    users = {str(user): viewer_of(seed + user, 40) for user in range(1, len(drawn) + 1)}
    pipeline = pipeline_over(store, index, users)

    def batch() -> list[Query]:
        return [
            query(
                user_id=user, parameters=asked.parameters, size=asked.size, exclude_videos=asked.request.exclude_videos
            )
            for user, asked in enumerate(drawn, 1)
        ]

    together = [result.candidates for result in pipeline.run(batch())]
    alone = [pipeline.run([asked])[0].candidates for asked in batch()]
    for one, other in zip(together, alone, strict=True):
        assert one.posts.post_id.tolist() == other.posts.post_id.tolist()
        assert one.score.tolist() == other.score.tolist()


EXPERIMENTS = [
    Experiment(
        name="voices",
        variants=[
            Variant(name="few", share=0.4, overrides={"author_diversity_decay": 0.875, "new_author_slot": 2}),
            Variant(name="many", share=0.4, overrides={"dpp_pool": 20}),
        ],
    ),
    Experiment(name="model", variants=[Variant(name="another", share=0.5, checkpoint=OTHER)]),
]
CHANGES: dict[tuple[str, str], dict[str, Any]] = {
    ("voices", "few"): {"author_diversity_decay": 0.875, "new_author_slot": 2},
    ("voices", "many"): {"dpp_pool": 20},
    ("model", "another"): {"checkpoint": OTHER},
}


@settings(max_examples=20)
@given(SEEDS)
def test_each_viewer_of_a_batch_gets_the_feed_of_the_viewers_own_variants(seed: int) -> None:
    world, base = world_of(seed, 40), replace(exact(FORYOU), top_k=8, result_size=6)
    vectors, views = vectors_of(sorted(world)), views_of(seed, world)
    store, index = store_of(*world.values(), max_age_ms=MAX_AGE_MS), index_of(vectors)
    store.apply_counts(seen_counts(views))
    viewers = {str(user): viewer_of(seed + user, 40) for user in range(21, 29)}
    experiments = Experiments(base, EXPERIMENTS)
    asked = []
    for user in map(int, viewers):
        parameters, variants = experiments.assign(user)
        asked.append(query(user_id=user, parameters=parameters, experiments=variants, size=6))
    results = pipeline_over(store, index, viewers).run(asked)
    for result in results:
        own, state = result.query, viewers[result.query.user_form]
        own.parameters = base
        for variant in own.experiments.items():
            own.parameters = replace(own.parameters, **CHANGES[variant])
        found = found_by_sources(store, index, own, state)
        expected = ObviousPipeline(world, MAX_AGE_MS, views, vectors, RANKERS).feed(own, found)
        assert result.candidates.posts.post_id.tolist() == [post_id for post_id, _ in expected]
    assert len({tuple(result.query.experiments.items()) for result in results}) > 3


def test_an_unknown_viewer_gets_popular_posts() -> None:
    store = store_of(*(post(i, 50 + i) for i in range(1, 11)))
    (result,) = foryou_pipeline(store, index_of({}), FixedModel(), KnownUsers()).run([query(size=5)])
    assert (result.status, len(result.candidates)) == ("ok", 5)


def test_labelled_posts_leave_no_gaps_in_the_feed() -> None:
    good = [post(i, i + 100) for i in range(1, 40)]
    bad = [post(i, i + 100, labels=["spam"]) for i in range(40, 400)]
    (result,) = foryou_pipeline(store_of(*good, *bad), index_of({}), FixedModel(), KnownUsers()).run([query()])
    assert len(result.candidates) == 35


def test_served_posts_are_stored_under_the_time_and_id_of_the_request() -> None:
    users = KnownUsers()
    pipeline = foryou_pipeline(store_of(post(1)), index_of({}), FixedModel(), users)
    pipeline.run([query(request_id="a"), query(user_id=2, request_id="b", size=1)])
    assert users.served == [("1", [1], NOW_MS, "a"), ("2", [1], NOW_MS, "b")]


def test_the_stages_stand_in_the_published_order() -> None:
    pipeline = foryou_pipeline(store_of(), index_of({}), FixedModel(), KnownUsers())
    assert [each.name for each in pipeline.sources] == [
        "thunder_source",
        "phoenix_retrieval_source",
        "popular_source",
        "repeat_source",
        "check_source",
    ]
    assert [each.name.removesuffix("_filter") for each in pipeline.filters] == [
        "drop_duplicates",
        "core_data",
        "age",
        "self_post",
        "oon_retweet_reply",
        "ineligible_subscription",
        "previously_seen",
        "previously_served",
        "muted_keyword",
        "author_socialgraph",
        "feedback",
        "video",
        "language",
        "visibility",
        "retweet_dedup",
        "repeat",
    ]
    assert [each.name for each in pipeline.scorers] == [
        "phoenix_scorer",
        "weighted_scorer",
        "new_author_boost_scorer",
        "author_diversity_scorer",
        "oon_scorer",
        "dpp_scorer",
    ]


def test_every_safety_component_is_required() -> None:
    pipeline = foryou_pipeline(store_of(), index_of({}), FixedModel(), KnownUsers())
    components = [*pipeline.query_hydrators, *pipeline.hydrators, *pipeline.filters, *pipeline.post_selection_filters]
    required = {component.name for component in components if component.required}
    assert required >= {
        "user_state_hydrator",
        "related_posts_hydrator",
        "ineligible_subscription_filter",
        "muted_keyword_filter",
        "author_socialgraph_filter",
        "visibility_filter",
        "current_visibility_filter",
    }
