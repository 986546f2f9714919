"""State written by commit 7378f43 is read as it was meant, and gives the feeds that it gave.

`state.msgpack.gz` is all that a stack of that commit held after a generated world, two accounts with string ids and
fourteen feed requests on the log's clock: every record of every topic, and Redis before and after the requests.
`checkpoint.tar.gz` is a checkpoint of an untrained `tiny` model (seed 3) of that commit.
"""

import gzip
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict, TypeVar, cast

import jax.numpy as jnp
import msgspec
import numpy as np
import pytest
import redis
import xxhash
from bytewax.testing import TestingSink, TestingSource, run_main
from jax import Array

from feed_worker.candidates.query import Query
from feed_worker.documents.explanation import Explanation
from feed_worker.documents.feed import Feed
from feed_worker.framework.budgets import FORYOU_BUDGETS_MS, STAGE_BUDGETS_MS
from feed_worker.framework.pipeline import Pipeline
from feed_worker.parameters import FORYOU
from feed_worker.pipeline import foryou_pipeline
from feed_worker.replica.reader import ReplicaState
from flows.decoding import Decoder
from flows.posts import Apply, Route, build_flow
from infra.ports.clock import HOUR_MS, LogClock
from infra.ports.settings import Settings
from phoenix.features.actions import BASE_DWELL_MS, BASE_RATES, MAX_DWELL_MS, log_odds
from phoenix.features.inputs import PostInputs
from phoenix.index.retrieval_index import VectorIndex
from phoenix.models.configs import config_named
from phoenix.models.initialisers import Uniform
from phoenix.models.parameters import initial_params
from phoenix.models.prior import CandidateFeatures, Prior, ViewerFeatures
from phoenix.serving.engine import Phoenix
from phoenix.serving.loading import load_models
from phoenix.training.checkpoints import CheckpointError
from tests.flows.messages import batch
from thunder_ingest.counts.table import CountTable, changes_of
from thunder_ingest.events import (
    INPUT_TYPES,
    EngagementEvent,
    FeedRequest,
    FeedServed,
    PostEmbedding,
    decode,
    pack,
    unpack_counts,
    unpack_dead_letter,
    unpack_embedding,
    unpack_post,
)
from thunder_ingest.events.actions import FIRST_SURFACE
from thunder_ingest.events.ids import id64, published_form
from thunder_ingest.posts.store import PostStore
from thunder_ingest.posts.table import PostTable
from thunder_ingest.users.entries import updates_of
from thunder_ingest.users.redis_form import UserStates
from thunder_ingest.users.register import declare_whole

HERE = Path(__file__).parent
D = TypeVar("D", Feed, Explanation)
LATER_INPUTS = ("watched", "history_video", "hour", "weekday")

Rows = list[tuple[bytes, bytes | None, list[tuple[str, bytes]] | None]]


class Asked(TypedDict):
    """A request of the capture; its feed was computed at the request's own time."""

    user: int | str
    request_id: str
    at: int


class State(TypedDict):
    """The capture: `hash` or `string` by Redis key, (key, value, headers) by topic."""

    until_ms: int
    asked: list[Asked]
    redis_before: dict[bytes, dict[str, Any]]
    redis_after: dict[bytes, dict[str, Any]]
    topics: dict[str, Rows]


@pytest.fixture(scope="module")
def state() -> State:
    return cast(State, msgspec.msgpack.decode(gzip.decompress((HERE / "state.msgpack.gz").read_bytes())))


def values(state: State, topic: str) -> list[bytes]:
    return [value for _, value, _ in state["topics"][topic] if value is not None]


def compacted(records: Rows) -> dict[bytes, bytes | None]:
    return {key: value for key, value, _ in records}


def embeddings(state: State) -> list[PostEmbedding]:
    return [unpack_embedding(value) for value in compacted(state["topics"]["post-embeddings"]).values() if value]


def events(state: State, topic: str) -> list[Any]:
    refused = {unpack_dead_letter(value).value for value in values(state, "dead-letters")}
    return [decode(topic, value) for value in values(state, topic) if value not in refused]


@pytest.mark.parametrize("topic", INPUT_TYPES)
def test_every_event_that_was_accepted_is_accepted(state: State, topic: str) -> None:
    assert events(state, topic)


@pytest.mark.parametrize(
    ("topic", "unpack"),
    [
        ("thunder-posts", unpack_post),
        ("post-embeddings", unpack_embedding),
        ("post-counts", unpack_counts),
        ("feeds-served", msgspec.msgpack.Decoder(FeedServed).decode),
        ("dead-letters", unpack_dead_letter),
    ],
)
def test_derived_records_are_written_as_they_were_and_new_fields_come_last(
    state: State, topic: str, unpack: Callable[[bytes], Any]
) -> None:
    raw = values(state, topic)
    assert raw
    for value in raw:
        before = msgspec.msgpack.decode(value)
        assert msgspec.msgpack.decode(pack(unpack(value)))[: len(before)] == before


def test_the_posts_flow_writes_the_same_bytes(state: State) -> None:
    clock, out = LogClock(), list[tuple[str, Any]]()
    apply = Apply(PostTable(Settings().remembered_ms), clock, lambda _: None)
    flow = build_flow(
        TestingSource([batch("posts", *values(state, "posts"))]), TestingSink(out), Decoder(Settings(), clock), Route(1)
    )
    run_main(flow)
    records = [record for _, share in out for record in apply(share)]
    written = {record.key: record.value for record in records if record.topic == "thunder-posts"}
    assert written == compacted(state["topics"]["thunder-posts"])


def test_the_engagements_flow_counts_the_same_where_no_account_acted_twice(state: State) -> None:
    done: list[EngagementEvent] = events(state, "engagements")
    voices = Counter((id64(e.post_id), id64(e.user_id), getattr(e, "action", "impression")) for e in done)
    repeated = {post_id for (post_id, _, _), times in voices.items() if times > 1}
    table = CountTable(Settings().remembered_ms)
    table.add(changes_of(done), state["until_ms"])
    found = {counts.post_id: counts for counts in table.drain(state["until_ms"]).records}
    stored = {int(key): unpack_counts(value or b"") for key, value in compacted(state["topics"]["post-counts"]).items()}
    assert found.keys() == stored.keys()
    assert 0 < len(repeated) < len(stored) / 10
    for post_id in stored.keys() - repeated:
        assert found[post_id] == stored[post_id]
    for post_id in repeated:  # an account's second like counted, too
        assert np.less_equal(found[post_id].totals, stored[post_id].totals).all()


def restored(client: redis.Redis, stored: Mapping[bytes, dict[str, Any]]) -> UserStates:
    for key, value in stored.items():
        if key.startswith(b"user:"):
            client.hset(key.decode(), mapping=value["hash"])
    declare_whole(client)
    return UserStates(client)


def test_users_in_redis_have_the_state_of_their_events(state: State, valkey: redis.Redis) -> None:
    names = [key.decode()[len("user:{") : -1] for key in state["redis_before"] if key.startswith(b"user:")]
    assert len(names) > 50
    read = restored(valkey, state["redis_before"]).read(names)
    valkey.flushall()
    users = UserStates(valkey)
    for topic in ("engagements", "social-graph"):
        users.append([update for event in events(state, topic) for update in updates_of(event)], topic)
    for before, now in zip(read, users.read(names), strict=True):
        assert before.is_known
        assert before.keywords == now.keywords
        assert not before.positions["surface"].any()  # codes of the earlier hash
        assert (now.positions["surface"] >= FIRST_SURFACE).all()
        fields = [name for name in before.positions.dtype.names or () if name != "surface"]
        assert before.positions[fields].tolist() == now.positions[fields].tolist()
        for field in ("following", "blocks", "blocked_by", "mutes", "subscriptions", "seen"):
            assert getattr(before, field).tolist() == getattr(now, field).tolist(), field


def base_logits(_: Prior, viewer: ViewerFeatures, candidate: CandidateFeatures) -> Array:
    """The logits of an untrained ranker without a head, before there was a prior."""
    rates = np.append(BASE_RATES, np.float32(BASE_DWELL_MS / MAX_DWELL_MS))
    return jnp.asarray(log_odds(rates))[None, None]


@pytest.fixture(scope="module")
def model(state: State) -> Iterator[Phoenix]:
    """The seeded model under its earlier version.

    All words are read, the head is random, upon base rates, and inputs that it did not have tell nothing.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("phoenix.features.inputs.are_stop_words", lambda tokens: np.zeros(tokens.shape, np.bool_))
        patch.setattr(Prior, "__call__", base_logits)
        params = initial_params(config := config_named(Settings().model), seed := Settings().model_seed)
        head = params.ranker["ranker/~/head"]
        drawn = jnp.asarray(Uniform(0.3 * config.dim**-0.5).draw(head["w"].shape, seed, "ranker/~/head/w"))
        unread = {f"ranker/~/{name}": params.ranker[f"ranker/~/{name}"] for name in LATER_INPUTS}
        silent = {name: {"rows": jnp.zeros_like(table["rows"])} for name, table in unread.items()}
        ranker = {**params.ranker, **silent, "ranker/~/head": {**head, "w": drawn}}
        model = Phoenix(config, params._replace(ranker=ranker), f"seed{seed}")
        (model.version,) = {embedding.model_version for embedding in embeddings(state)}
        yield model


def test_the_seeded_model_is_the_same(state: State, model: Phoenix) -> None:
    posts = {post.post_id: post for post in map(unpack_post, values(state, "thunder-posts"))}
    stored = embeddings(state)
    store = PostStore()
    store.apply(list(posts.values()))
    columns = store.columns(store.rows_of(np.array([embedding.post_id for embedding in stored], np.int64)))
    inputs = PostInputs(columns.author_id, columns.tokens, columns.video_ms, columns.photos)
    vectors = np.stack([np.frombuffer(embedding.vector, "<f4") for embedding in stored])
    np.testing.assert_allclose(model.embed_posts(inputs), vectors, rtol=0, atol=2e-6)


@pytest.fixture
def pipeline(state: State, model: Phoenix, valkey: redis.Redis) -> Pipeline:
    store, index = PostStore(), VectorIndex()
    copies = ReplicaState(store, index, LogClock(), (model.version,))
    topics = ("thunder-posts", "post-counts", "post-embeddings")
    copies.apply({topic: [(key, value) for key, value, _ in state["topics"][topic]] for topic in topics})
    # the first call compiles kernels
    unlimited = dict.fromkeys((*STAGE_BUDGETS_MS, *FORYOU_BUDGETS_MS), 600_000)
    return foryou_pipeline(store, index, model, restored(valkey, state["redis_before"]), budgets_ms=unlimited)


def query_of(request: FeedRequest, model_version: str) -> Query:
    return Query(
        request=request,
        user_id=id64(request.user_id),
        user_form=published_form(request.user_id),
        now_ms=request.at,
        deadline_at=request.at + HOUR_MS,
        size=request.size or 35,
        parameters=replace(FORYOU, stand_in_posts=0),
        model_version=model_version,
    )


def document(state: State, kind: str, user: str, type_: type[D]) -> D:
    stored = state["redis_after"][f"{kind}:{{{user}}}".encode()]["string"]
    return msgspec.json.decode(stored, type=type_)


def code_of_the_earlier_version(name: str | None) -> int:
    return 0 if name is None else 1 + xxhash.xxh32_intdigest(name.encode()) % 15


def test_the_same_requests_get_the_same_feeds(
    state: State, pipeline: Pipeline, model: Phoenix, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for what has changed since then.

    A repost has the counts of its original, mutes apply through reposts, the codes of surfaces are others,
    and accounts that a viewer without history follows had no effect on scores.
    """
    monkeypatch.setattr("thunder_ingest.users.history.FIRST_SURFACE", 0)
    monkeypatch.setattr("feed_worker.candidates.model_inputs.surface_code", code_of_the_earlier_version)
    monkeypatch.setattr("feed_worker.candidates.related_posts.CONTENT", ("tokens", "photos", "video_ms", "lang"))
    requests = [decode("feed-requests", value) for value in values(state, "feed-requests")]
    assert len(requests) == len(state["asked"]) == 14
    forms = {
        post.post_id: post.post_form for post in map(unpack_post, values(state, "thunder-posts")) if post.post_form
    }
    compared = 0
    for request in requests:
        (result,) = pipeline.run([query_of(request, model.version)])
        if len(result.query.viewer.mutes):
            continue
        compared += 1
        feed = document(state, "feed", str(request.user_id), Feed)
        shown = dict(zip([item.post_id for item in feed.items], [item.score for item in feed.items], strict=True))
        ids = [forms.get(post_id, str(post_id)) for post_id in result.candidates.posts.post_id.tolist()]
        assert (result.status, ids) == (feed.status, list(shown)), request.user_id
        np.testing.assert_allclose(result.candidates.score, list(shown.values()), rtol=1e-4)
    assert compared >= 5


def test_documents_are_written_as_they_were_and_new_fields_come_last(state: State) -> None:
    documents = {"feed": Feed, "explain": Explanation}
    for key, stored in state["redis_after"].items():
        kind = documents.get(key.decode().partition(":")[0])
        if kind is not None:
            written = msgspec.json.encode(msgspec.json.decode(stored["string"], type=kind))
            assert written.startswith(stored["string"].removesuffix(b"}"))


def test_a_checkpoint_of_an_earlier_format_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with tarfile.open(HERE / "checkpoint.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    with pytest.raises(CheckpointError, match="is of format 3; this program reads"):
        load_models(str(tmp_path), "", 0)
