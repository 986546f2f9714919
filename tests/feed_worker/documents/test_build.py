import json
import math
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from feed_worker.documents.build import explanation_of, feed_of, served_of
from feed_worker.documents.explanation import Explanation
from feed_worker.documents.feed import Feed, feed_schema
from feed_worker.framework.request_run import Result
from feed_worker.parameters import FORYOU, X_2026_08_12
from feed_worker.pipeline import foryou_pipeline
from phoenix.index.retrieval_index import VectorIndex
from tests.feed_worker.builders import NOW_MS, FixedModel, KnownUsers, post, query, seen_counts, store_of, viewer
from thunder_ingest.events import ACTIONS, pack, unpack_feed_served
from thunder_ingest.events.ids import id64
from thunder_ingest.posts.store import PostStore

POST, AUTHOR = "at://did:plc:x/post/1", "did:plc:x"


def served(*, model: Any = None, rankers: Any = None, **request: Any) -> tuple[Result, PostStore]:
    string_ids = post(id64(POST), id64(AUTHOR), post_form=POST, author_form=AUTHOR, text="hello")
    store = store_of(string_ids, *(post(i, 50 + i % 3) for i in range(1, 6)), post(id64("blocked"), 99))
    users = KnownUsers({"1": viewer(following=[id64(AUTHOR)], blocks=[99])})
    pipeline = foryou_pipeline(store, VectorIndex(), model or FixedModel(), users, rankers)
    (result,) = pipeline.run([query(**request)])
    return result, store


def test_a_feed_begins_with_the_time_of_its_request() -> None:
    document = msgspec.json.encode(feed_of(*served(), NOW_MS + 5, ["r"]))
    assert document.startswith(b'{"at":%d,' % NOW_MS)


def test_a_feed_names_the_requests_that_it_answers_and_its_status() -> None:
    feed = feed_of(*served(size=3), NOW_MS + 5, ["r0", "r"])
    assert (feed.request_id, feed.user_id, feed.status, feed.answers) == ("r", "1", "ok", ["r0", "r"])
    assert (feed.generated_at, feed.model_version, feed.parameters) == (NOW_MS + 5, "fixed-1", "foryou")
    assert feed.experiments == {}
    assert [item.rank for item in feed.items] == [1, 2, 3]
    assert sorted(feed.items, key=lambda item: -item.score) == feed.items


def test_ids_come_back_as_they_were_published() -> None:
    feed = feed_of(*served(), NOW_MS, ["r"])
    forms = {item.post_id: item.author_id for item in feed.items}
    assert forms[POST] == AUTHOR
    assert forms["1"] == "51"


def test_an_item_names_its_source_and_the_actions_that_speak_for_it() -> None:
    (item,) = (item for item in feed_of(*served(), NOW_MS, ["r"]).items if item.post_id == POST)
    assert (item.kind, item.source, item.in_network) == ("original", "thunder", True)
    assert len(item.reasons) == 3
    assert sorted(item.reasons, key=lambda reason: -reason.contribution) == item.reasons
    assert all(reason.contribution > 0 for reason in item.reasons)


def test_a_post_deleted_after_selection_is_left_out_of_the_feed() -> None:
    result, store = served()
    store.remove([id64(POST)])
    feed = feed_of(result, store, NOW_MS, ["r"])
    assert POST not in {item.post_id for item in feed.items}
    assert [item.rank for item in feed.items] == [1, 2, 3, 4, 5]


def test_a_feed_from_which_everything_was_deleted_is_empty() -> None:
    result, store = served()
    store.remove([id64(POST), *range(1, 6)])
    assert feed_of(result, store, NOW_MS, ["r"]).status == "empty"


def test_an_expired_request_gets_a_document_without_items() -> None:
    feed = feed_of(*served(now_ms=NOW_MS + 3_600_000), NOW_MS, ["r"])
    assert (feed.status, feed.items) == ("expired", [])


def test_documents_are_read_back_as_they_were_written() -> None:
    result, store = served(explain=True)
    feed, explanation = feed_of(result, store, NOW_MS, ["r"]), explanation_of(result, store)
    assert msgspec.json.decode(msgspec.json.encode(feed), type=Feed) == feed
    assert msgspec.json.decode(msgspec.json.encode(explanation), type=Explanation) == explanation


def test_the_terms_of_an_explanation_add_up_to_the_score() -> None:
    for item in explanation_of(*served(explain=True)).items:
        assert item.scored
        assert item.predictions.keys() == item.terms.keys() == set(ACTIONS)
        assert math.fsum(item.terms.values()) == pytest.approx(item.combined)
        assert item.combined + item.offset == pytest.approx(item.weighted)
        added = item.weighted + item.boost
        assert added * item.author_diversity * item.out_of_network * item.dpp == pytest.approx(item.score)


def test_a_boosted_post_has_its_boost_and_its_arithmetic_still_holds() -> None:
    def predict(post_id: int) -> list[float]:
        return [0.1 if post_id == 3 else 0.9, *(0.0 for _ in ACTIONS[1:])]

    store = store_of(*(post(i, 50 + i) for i in range(1, 6)))
    store.apply_counts(seen_counts({1: 5_000, 2: 5_000, 3: 10, 4: 5_000, 5: 5_000}))
    pipeline = foryou_pipeline(store, VectorIndex(), FixedModel(predict), KnownUsers())
    raised = replace(X_2026_08_12, new_author_slot=1, new_author_top_share=1.0)
    (result,) = pipeline.run([query(explain=True, parameters=raised)])
    items = {item.post_id: item for item in explanation_of(result, store).items}
    assert {post_id: item.boost for post_id, item in items.items()} == pytest.approx(
        {"1": 0, "2": 0, "3": 0.4, "4": 0, "5": 0}
    )
    for item in items.values():
        added = item.weighted + item.boost
        assert added * item.author_diversity * item.out_of_network * item.dpp == pytest.approx(item.score)
    assert items["3"].score == pytest.approx(items["4"].score)


def test_the_funnel_has_every_stage_and_each_begins_where_the_last_one_ended() -> None:
    steps = explanation_of(*served(explain=True, size=2)).funnel
    assert list(dict.fromkeys(step.stage for step in steps)) == [
        "source",
        "filter",
        "selector",
        "post_selection_filter",
        "size",
    ]
    assert [step.entered for step in steps] == [0, *(step.left for step in steps[:-1])]
    assert steps[-1].left == 2


def test_a_candidate_dropped_after_scoring_has_its_score_and_its_rank_among_all_scored() -> None:
    explanation = explanation_of(*served(explain=True, size=2))
    after = [each for each in explanation.dropped if each.filter == "size"]
    before = [each for each in explanation.dropped if each.filter == "author_socialgraph_filter"]
    assert [each.rank for each in after] == [3, 4, 5, 6]
    assert all(each.score is not None and each.score <= explanation.items[-1].score for each in after)
    assert [(each.score, each.rank) for each in before] == [(None, None)]


def test_a_candidate_left_out_by_re_ranking_has_its_score_from_before() -> None:
    one = replace(X_2026_08_12, new_author_boost=False, dpp_pool=1)
    explanation = explanation_of(*served(explain=True, parameters=one))
    left_out = [each for each in explanation.dropped if each.filter == "top_k_selector"]
    assert len(explanation.items) == 1
    assert sorted(each.rank or 0 for each in left_out) == [2, 3, 4, 5, 6]
    assert all(each.score for each in left_out)


def test_a_feed_its_record_and_its_explanation_name_the_variants_and_the_ranking_model() -> None:
    other = {"there": FixedModel(version="other-2")}
    variants = {"ranker": "new", "voices": "many"}
    result, store = served(
        explain=True,
        experiments=variants,
        rankers=other,
        parameters=replace(FORYOU, checkpoint="there"),
        model_version="other-2",
    )
    feed, explanation = feed_of(result, store, NOW_MS, ["r"]), explanation_of(result, store)
    record = served_of(result, feed, "r")
    assert feed.experiments == explanation.experiments == record.experiments == variants
    assert feed.model_version == explanation.model_version == record.model_version == "other-2"


def test_an_older_record_without_experiments_is_still_read() -> None:
    result, store = served()
    record = served_of(result, feed_of(result, store, NOW_MS, ["r"]), "r")
    older = msgspec.msgpack.encode(msgspec.msgpack.decode(pack(record))[:-3])
    assert unpack_feed_served(older) == msgspec.structs.replace(record, first_page_at=0)


def test_an_explanation_names_the_filter_of_each_dropped_candidate_and_the_way_of_all() -> None:
    explanation = json.loads(msgspec.json.encode(explanation_of(*served(explain=True, size=2))))
    assert [str(id64("blocked")), "author_socialgraph_filter", None, None] in explanation["dropped"]
    assert explanation["funnel"][0] == {"stage": "source", "name": "thunder_source", "in": 0, "out": 1}
    assert explanation["funnel"][-1] == {"stage": "size", "name": "size", "in": 6, "out": 2}


def test_a_feed_without_a_ranker_is_ordered_by_time_and_degraded() -> None:
    class Broken(FixedModel):
        def score(self, *_: Any) -> np.ndarray:
            raise RuntimeError("no device")

    result, store = served(model=Broken(), explain=True)
    feed, explanation = feed_of(result, store, NOW_MS, ["r"]), explanation_of(result, store)
    assert (feed.status, feed.degradations) == ("degraded", ["phoenix_scorer: RuntimeError"])
    assert len(feed.items) == 6
    assert all(item.score == 0 and not item.reasons for item in feed.items)
    assert not any(item.scored or item.predictions or item.terms for item in explanation.items)


def test_the_served_record_agrees_with_the_feed() -> None:
    result, store = served(surface="home")
    feed = feed_of(result, store, NOW_MS + 5, ["r0", "r"])
    record = served_of(result, feed, "r0")
    assert (record.request_id, record.user_id, record.user_form, record.surface) == ("r0", 1, "1", "home")
    assert record.post_ids == [id64(item.post_id) for item in feed.items]
    assert record.scores == [item.score for item in feed.items]


def test_the_schema_of_a_feed_is_shipped() -> None:
    assert "FeedItem" in feed_schema()["$defs"]
