"""Derived topics with records that cannot be read: these are skipped, and all others count."""

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from feed_worker.replica.reader import COUNTS, VECTORS, ReplicaState
from flows import accounts, posts, process
from flows.embeddings import Embed, EmbeddingTask
from flows.sources import Batch
from infra.ports.clock import WallClock
from infra.ports.message import MessageCopy
from infra.ports.process_metrics import BROKEN_RECORDS
from infra.ports.settings import Settings
from phoenix.index.retrieval_index import VectorIndex
from phoenix.serving.engine import Phoenix
from thunder_ingest.events import AccountState, Post, PostCounts, PostEmbedding, key_of_id, pack
from thunder_ingest.posts.store import PostStore
from thunder_ingest.posts.table import PostTable
from thunder_ingest.users.accounts import AccountTable

NOW_MS = WallClock().now_ms()
ODD: list[tuple[bytes | None, bytes | None]] = [
    (b"h", None),
    (b"\xff\xfe", b"\x01"),
    ("ключ".encode(), b"\x80"),
    (b"7", b"{}"),
    (b"8", b"\x93\x08\x01"),
    (b"9", b'{"post_id": 9}'),
    (b"10", b"\xc1"),
    (b"99999999999999999999", None),
    (b"", b""),
]
POST = Post(post_id=5, author_id=50, created_at=NOW_MS, at=NOW_MS, text="good")


def among_odd(good: bytes) -> list[tuple[bytes | None, bytes | None]]:
    return [*ODD[:4], (b"5", good), *ODD[4:]]


def messages(topic: str, good: bytes) -> list[MessageCopy]:
    return [MessageCopy(topic, 0, at, key=key, value=value) for at, (key, value) in enumerate(among_odd(good))]


def skipped(topic: str) -> int:
    return BROKEN_RECORDS.values().get(topic, 0)


@pytest.mark.parametrize("topic", ["thunder-posts", VECTORS, COUNTS, "accounts"])
def test_a_worker_applies_all_records_that_it_can_read(topic: str, caplog: pytest.LogCaptureFixture) -> None:
    store, index, before = PostStore(), VectorIndex(), skipped(topic)
    good = {
        "thunder-posts": POST,
        VECTORS: PostEmbedding(post_id=5, model_version="m", vector=np.ones(4, "<f4").tobytes()),
        COUNTS: PostCounts(post_id=5, at=NOW_MS, totals=[3] * 20),
        "accounts": AccountState(user_id=50, status="suspended", at=NOW_MS),
    }
    state = ReplicaState(store, index, WallClock(), ("m",))
    if topic != "thunder-posts":
        store.apply([POST])
    state.apply({topic: among_odd(pack(good[topic]))})
    row = store.rows_of(np.array([5]))
    assert row[0] >= 0
    if topic == VECTORS:
        assert index.vectors(np.array([5]), "m").any()
    if topic == COUNTS:
        assert store.columns(row).totals.any()
    if topic == "accounts":
        assert store.accounts.inactive.tolist() == [50]
    assert skipped(topic) > before
    assert f"the record of {topic} with key" in caplog.text


def test_the_flow_of_posts_restores_all_records_that_it_can_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "scan", lambda *_, **__: [messages("thunder-posts", pack(POST))])
    table = PostTable(86_400_000)
    posts.restore_from(Settings(), lambda _: True)(table)
    assert len(table) == 1


def test_the_table_of_accounts_restores_all_records_that_it_can_read(monkeypatch: pytest.MonkeyPatch) -> None:
    state = AccountState(user_id=5, status="suspended", at=NOW_MS)
    monkeypatch.setattr(process, "scan", lambda *_, **__: [messages("accounts", pack(state))])
    table = AccountTable()
    accounts.restore_from(Settings())(table)
    assert len(table) == 1


def test_the_flow_of_embeddings_embeds_all_posts_that_it_can_read() -> None:
    model = SimpleNamespace(version="m", embed_posts=lambda found: np.ones((len(found.author_id), 4), np.float32))
    batch = Batch("thunder-posts", 0, messages("thunder-posts", pack(POST)))
    records = Embed()(EmbeddingTask(batch, (cast(Phoenix, model),)))
    assert key_of_id(5) in {record.key for record in records}
    assert not {record.key for record in records} & {b"h", b"\xff\xfe"}
