import io
import json
import re

import msgspec
import pytest
from rich.console import Console, RenderableType

from feed_worker.documents.build import explanation_of, feed_of
from feed_worker.documents.explanation import Dropped, Explanation, explanation_schema
from feed_worker.pipeline import foryou_pipeline
from infra.ops.explain import DROPPED_BY, ExplainedFeed, outcome_of
from infra.ports.redis import connect
from infra.ports.settings import Settings
from infra.terminal import explanation as explain_view
from phoenix.index.retrieval_index import VectorIndex
from tests.feed_worker.builders import NOW_MS, FixedModel, KnownUsers, store_of
from tests.feed_worker.documents.test_build import POST, served
from tests.infra.cli.foryou import foryou, unique
from thunder_ingest.events.ids import id64

BLOCKED = str(id64("blocked"))


def explained() -> ExplainedFeed:
    result, store = served(explain=True, size=4)
    return ExplainedFeed(explanation_of(result, store), feed_of(result, store, NOW_MS + 5, ["r"]))


def lines_of(view: RenderableType) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=100).print(view, highlight=False)
    return out.getvalue().splitlines()


def test_every_component_that_drops_posts_has_a_reason() -> None:
    pipeline = foryou_pipeline(store_of(), VectorIndex(), FixedModel(), KnownUsers())
    dropping = [*pipeline.filters, pipeline.selector, *pipeline.post_selection_filters]
    assert {component.name for component in dropping} | {"size"} == DROPPED_BY.keys()


def test_the_arithmetic_of_an_item_equals_its_score() -> None:
    for item in explained().explanation.items:
        line = explain_view.sum_of(item)
        added, score = line.split(" = ")
        value = eval(re.sub(r"[a-z][a-z -]*", "", added).replace("×", "*"))
        assert value == pytest.approx(float(score), abs=2e-5)


def test_factors_of_one_and_boosts_of_zero_are_left_out() -> None:
    item = explained().explanation.items[0]
    plain = msgspec.structs.replace(item, boost=0.0, author_diversity=1.0, out_of_network=1.0, dpp=1.0)
    assert "×" not in explain_view.sum_of(plain)
    assert "new-author" not in explain_view.sum_of(plain)
    boosted = explain_view.sum_of(msgspec.structs.replace(item, boost=0.5, author_diversity=0.625))
    assert "0.50000 new-author boost) × 0.625 author diversity" in boosted


def test_the_header_counts_what_sources_left_out_and_an_answer_without_posts_is_no_later_feed() -> None:
    explanation, feed = explained()
    assert not any("left out" in line for line in lines_of(explain_view.header(ExplainedFeed(explanation, feed))))
    empty = msgspec.structs.replace(
        explanation, request_id="other", status="empty", items=[], left_out={"served": 3, "seen": 1_200}
    )
    lines = [line.split("  ", 1) for line in lines_of(explain_view.header(ExplainedFeed(empty, feed)))]
    facts = {line[0].strip(): line[-1].strip() for line in lines}
    assert facts["left out"] == "3 served and 1,200 seen posts, which the sources of new posts skip"
    assert facts["note"] == "an answer without posts, so another feed stays the current one"


def test_an_explanation_shows_the_funnel_the_items_and_the_drops() -> None:
    found = explained()
    lines = lines_of(explain_view.view(found))
    assert lines[0] == "user 1: ok, 4 items"
    for step in found.explanation.funnel:
        assert any(re.search(rf"\b{step.name} +{step.entered} +{step.left}\b", line) for line in lines)
    for item in found.explanation.items:
        assert any(explain_view.sum_of(item) in line for line in lines)
    assert any(re.match(r"author_socialgraph_filter +1 +a block or mute", line) for line in lines)
    assert "current feed" not in lines_of(explain_view.header(found))[-1]


def test_an_explanation_of_an_earlier_feed_is_marked() -> None:
    assert "--ask" in lines_of(explain_view.header(ExplainedFeed(explained().explanation, None)))[-1]


def test_one_item_is_shown_with_all_its_predictions() -> None:
    (item, *_) = explained().explanation.items
    lines = lines_of(explain_view.item_view(item))
    assert all(any(line.startswith(f"{action} ") for line in lines) for action in item.predictions)


def test_a_post_is_shown_dropped_or_never_a_candidate() -> None:
    explanation = explained().explanation
    shown, dropped, unknown = (outcome_of(explanation, post) for post in (POST, BLOCKED, "12345"))
    assert shown.as_json()["fate"] == "shown"
    assert f"shown at rank {shown.item.rank}" in lines_of(explain_view.outcome_view(shown))[0]  # type: ignore[union-attr]
    assert dropped.as_json()["dropped"][0]["filter"] == "author_socialgraph_filter"
    assert lines_of(explain_view.outcome_view(dropped))[0] == f"post {BLOCKED}: dropped by author_socialgraph_filter"
    assert unknown.as_json()["fate"] == "never a candidate"
    assert lines_of(explain_view.outcome_view(unknown))[0] == "post 12345: never a candidate"


def test_a_dropped_post_that_left_the_store_is_found_by_its_published_id() -> None:
    explanation = explained().explanation
    explanation.dropped.append(Dropped(str(id64("at://gone")), "age_filter"))
    assert [each.filter for each in outcome_of(explanation, "at://gone").dropped] == ["age_filter"]


def test_markup_in_user_content_is_printed_literally() -> None:
    found = explained()
    found.explanation.items[0].post_id = "[red]x[/red]"
    assert any("[red]x[/red]" in line for line in lines_of(explain_view.view(found)))


def stored(settings: Settings) -> tuple[str, Explanation]:
    user, explanation = unique("user"), explained().explanation
    redis = connect(settings)
    redis.set(f"explain:{{{user}}}", msgspec.json.encode(explanation))
    redis.close()
    return user, explanation


@pytest.mark.embedded
def test_the_command_prints_the_explanation_as_json(servers: Settings) -> None:
    user, explanation = stored(servers)
    whole = foryou("explain", user, "--json", settings=servers)
    assert json.loads(whole.stdout) == json.loads(msgspec.json.encode(explanation))
    item = foryou("explain", user, "--item", "2", "--json", settings=servers)
    assert json.loads(item.stdout)["rank"] == 2
    post = foryou("explain", user, "--post", BLOCKED, "--json", settings=servers)
    assert json.loads(post.stdout)["fate"] == "dropped"
    assert foryou("explain", user, "--item", "99", settings=servers).returncode == 2


@pytest.mark.embedded
def test_a_missing_explanation_is_requested_unless_no_ask_is_given(servers: Settings) -> None:
    refused = foryou("explain", unique("user"), "--no-ask", settings=servers)
    assert refused.returncode == 1
    assert "--ask" in refused.stderr.decode()
    asked = foryou("explain", unique("user"), "--timeout", "0.1", settings=servers)
    assert asked.returncode == 1
    assert "no answer to request" in asked.stderr.decode().splitlines()[-1]


def test_the_schema_of_an_explanation_names_its_parts() -> None:
    assert {"Explanation", "ExplainedItem", "FunnelStep", "Dropped"} <= explanation_schema()["$defs"].keys()
