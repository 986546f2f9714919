import redis
from hypothesis import HealthCheck, given, settings

from feed_worker.framework.pipeline import Pipeline
from feed_worker.framework.request_run import Result
from feed_worker.pipeline import foryou_pipeline
from infra.ports.clock import HOUR_MS
from tests.feed_worker.builders import NOW_MS, FixedModel, post, query, store_of
from tests.feed_worker.test_pipeline import SEEDS, index_of, vectors_of, world_of
from thunder_ingest.users.redis_form import UserStates
from thunder_ingest.users.register import declare_whole


def page(pipeline: Pipeline, number: int, after: str | None) -> Result:
    (result,) = pipeline.run([query(request_id=f"p{number}", at=NOW_MS + number * HOUR_MS, size=5, after=after)])
    return result


def shown(result: Result) -> list[int]:
    return [int(post_id) for post_id in result.candidates.posts.post_id]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(SEEDS)
def test_no_page_repeats_an_earlier_one_and_after_the_last_comes_an_empty_one(valkey: redis.Redis, seed: int) -> None:
    valkey.flushall()
    declare_whole(valkey)
    world = world_of(seed, 60)
    pipeline = foryou_pipeline(
        store_of(*world.values()), index_of(vectors_of(sorted(world))), FixedModel(), UserStates(valkey)
    )
    result, read = page(pipeline, 0, None), list[int]()
    for number in range(1, len(world)):
        if not shown(result):
            break
        read += shown(result)
        result = page(pipeline, number, result.query.request.request_id)
    assert result.status == "empty"
    assert len(set(read)) == len(read) > 5


def test_a_request_that_is_no_page_repeats_posts_served_long_ago(valkey: redis.Redis) -> None:
    declare_whole(valkey)
    pipeline = foryou_pipeline(
        store_of(*(post(i, 50 + i) for i in range(1, 6))), index_of({}), FixedModel(), UserStates(valkey)
    )
    assert shown(page(pipeline, 0, None)) == shown(page(pipeline, 1, None)) != []
