"""The reason of an empty feed, in words: the posts that sources found, filters dropped, and sources left out."""

from collections.abc import Sequence

from feed_worker.candidates.id_sets import contains
from feed_worker.candidates.query import Query
from feed_worker.framework import stages
from feed_worker.framework.request_run import FunnelStep, Result
from thunder_ingest.events import RepeatName
from thunder_ingest.posts.store import PostStore


def left_out_of(query: Query, store: PostStore) -> dict[RepeatName, int]:
    """The number of stored posts that the sources of new posts skip: served and not seen ones, and seen ones."""
    unseen = query.served[~contains(query.seen, query.served)]
    return {"served": int((store.rows_of(unseen) >= 0).sum()), "seen": int((store.rows_of(query.seen) >= 0).sum())}


def why_empty(result: Result, store: PostStore) -> str:
    """The reason in one line, a degradation of the feed."""
    skipped = [f"{count} {name}" for name, count in left_out_of(result.query, store).items() if count]
    reasons = [_of_candidates(result, store)]
    if skipped:
        reasons.append(f"the sources left out posts: {', '.join(skipped)}")
    if result.query.request.after is not None:
        reasons.append("a page repeats no earlier one")
    return f"nothing to show: {'; '.join(reasons)}"


def _of_candidates(result: Result, store: PostStore) -> str:
    if len(result.candidates):
        return "all posts were deleted while the feed was made"
    sources = [step for step in result.funnel if step.stage == stages.SOURCE.name]
    found = sum(step.left - step.entered for step in sources)
    if not found:
        return "no source found a post" if len(store) else "the worker has no posts"
    return f"{found} candidates were dropped by {_drops(result.funnel)}"


def _drops(funnel: Sequence[FunnelStep]) -> str:
    """The components that dropped candidates, with the number of each."""
    drops = [step for step in funnel if step.stage != stages.SOURCE.name and step.left < step.entered]
    return ", ".join(f"{step.name} ({step.entered - step.left})" for step in drops)
