"""The documents of a result: the feed, its explanation, and the record of `feeds-served`."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import REPEATS, SOURCES, Candidates, concat
from feed_worker.documents.emptiness import left_out_of, why_empty
from feed_worker.documents.explanation import Dropped, ExplainedItem, Explanation, FunnelStep
from feed_worker.documents.feed import Feed, FeedItem, Reason
from feed_worker.framework.request_run import Result
from feed_worker.parameters import Parameters
from feed_worker.scorers.weighted import weighted_terms
from thunder_ingest.events import ACTIONS, KINDS, FeedServed, FeedStatus
from thunder_ingest.events.ids import id64
from thunder_ingest.posts.store import PostStore

REASONS: Final = 3


def feed_of(result: Result, store: PostStore, generated_at: int, answers: Sequence[str]) -> Feed:
    """The document of a result; `answers` are the ids of all requests that it answers.

    A post that left the store after its selection is left out: a deletion never waits for a feed.
    """
    shown = _shown(result.candidates, store)
    status, degradations = _outcome(result, shown, store)
    return Feed(
        at=result.query.request.at,
        request_id=result.query.request.request_id,
        user_id=result.query.user_form,
        status=status,
        generated_at=generated_at,
        model_version=result.query.model_version,
        parameters=result.query.parameters.name,
        items=_items(shown, result.query.parameters),
        degradations=degradations,
        answers=list(answers),
        experiments=result.query.experiments,
        surface=result.query.request.surface or "",
        arrived_at=result.query.arrived_ms,
        offset=result.query.offset,
    )


def explanation_of(result: Result, store: PostStore) -> Explanation:
    """The explanation of a result; without `explain` in the request the dropped candidates are not known."""
    query, shown = result.query, _shown(result.candidates, store)
    status, degradations = _outcome(result, shown, store)
    history_at = [] if query.user is None else query.user.positions["at"].tolist()
    return Explanation(
        at=query.request.at,
        request_id=query.request.request_id,
        user_id=query.user_form,
        status=status,
        parameters=query.parameters.name,
        history_length=len(history_at),
        history_at=max(history_at, default=None),
        degradations=degradations,
        funnel=[FunnelStep(stage=s.stage, name=s.name, entered=s.entered, left=s.left) for s in result.funnel],
        timings_ms=result.timings_ms,
        stages_ms=result.stages_ms,
        items=_explained(shown, query.parameters),
        dropped=_dropped(result, store),
        left_out=left_out_of(query, store),
        model_version=query.model_version,
        experiments=query.experiments,
    )


def served_of(result: Result, feed: Feed, request_id: str) -> FeedServed:
    """The record of `feeds-served` for one of the requests that a feed answers."""
    return FeedServed(
        request_id=request_id,
        user_id=result.query.user_id,
        user_form=feed.user_id,
        at=feed.at,
        served_at=feed.generated_at,
        status=feed.status,
        model_version=feed.model_version,
        parameters=feed.parameters,
        surface=result.query.request.surface or "",
        post_ids=[id64(item.post_id) for item in feed.items],
        author_ids=[id64(item.author_id) for item in feed.items],
        scores=[item.score for item in feed.items],
        experiments=feed.experiments,
        degradations=feed.degradations,
        first_page_at=result.query.first_page_ms,
    )


class _Shown(NamedTuple):
    candidates: Candidates
    forms: list[tuple[str, str]]


def _shown(candidates: Candidates, store: PostStore) -> _Shown:
    with store.lock:
        rows = store.rows_of(candidates.posts.post_id)
        return _Shown(candidates.take(rows >= 0), store.forms(rows[rows >= 0]))


def _outcome(result: Result, shown: _Shown, store: PostStore) -> tuple[FeedStatus, list[str]]:
    """The status and the degradations of a document; an empty one has its reason."""
    if shown.forms or result.status in ("expired", "failed"):
        return result.status, result.query.degradations
    return "empty", [*result.query.degradations, why_empty(result, store)]


def _facts(shown: _Shown) -> list[dict[str, Any]]:
    """The fields of each item that a feed and its explanation share."""
    candidates = shown.candidates
    columns = zip(
        shown.forms,
        candidates.posts.kind.tolist(),
        candidates.source.tolist(),
        candidates.in_network.tolist(),
        candidates.posts.created_at.tolist(),
        candidates.repeat.tolist(),
        candidates.score.tolist(),
        strict=True,
    )
    return [
        {
            "rank": rank,
            "post_id": post_form,
            "author_id": author_form,
            "kind": KINDS[kind],
            "source": SOURCES[source],
            "in_network": in_network,
            "created_at": created_at,
            "repeat": REPEATS[repeat],
            "score": score,
        }
        for rank, ((post_form, author_form), kind, source, in_network, created_at, repeat, score) in enumerate(
            columns, 1
        )
    ]


def _items(shown: _Shown, parameters: Parameters) -> list[FeedItem]:
    terms = weighted_terms(shown.candidates, parameters)
    reasons = map(_reasons, shown.candidates.predictions, terms)
    return [FeedItem(**facts, reasons=why) for facts, why in zip(_facts(shown), reasons, strict=True)]


def _reasons(predictions: NDArray[np.float32], terms: NDArray[np.float64]) -> list[Reason]:
    best = [int(action) for action in np.argsort(-terms, kind="stable")[:REASONS] if terms[action] > 0]
    return [
        Reason(action=ACTIONS[action], probability=float(predictions[action]), contribution=float(terms[action]))
        for action in best
    ]


def _explained(shown: _Shown, parameters: Parameters) -> list[ExplainedItem]:
    candidates = shown.candidates
    terms = weighted_terms(candidates, parameters)
    return [
        ExplainedItem(
            **facts,
            scored=bool(candidates.scored[i]),
            retrieval_score=_finite(candidates.retrieval_score[i]),
            predictions=_by_action(candidates.predictions[i]),
            terms=_by_action(terms[i]) if candidates.scored[i] else {},
            combined=float(terms[i].sum()),
            offset=float(candidates.weighted[i] - terms[i].sum()),
            weighted=float(candidates.weighted[i]),
            boost=float(candidates.boost[i]),
            author_diversity=float(candidates.diversity[i]),
            out_of_network=float(candidates.oon[i]),
            dpp=float(candidates.dpp[i]),
        )
        for i, facts in enumerate(_facts(shown))
    ]


def _by_action(values: NDArray[Any]) -> dict[str, float]:
    return {action: float(value) for action, value in zip(ACTIONS, values, strict=True) if np.isfinite(value)}


def _finite(value: np.float32) -> float | None:
    return float(value) if np.isfinite(value) else None


def _dropped(result: Result, store: PostStore) -> list[Dropped]:
    if not result.dropped:
        return []
    names = [name for name, candidates in result.dropped for _ in range(len(candidates))]
    everything = concat([*(candidates for _, candidates in result.dropped), result.candidates])
    everything = everything.with_columns(dpp=np.ones(len(everything)))
    ranks = np.empty(len(everything), np.int64)
    ranks[everything.ranking()] = np.arange(1, len(everything) + 1)
    forms = _post_forms(everything.posts.post_id[: len(names)], store)
    columns = zip(forms, names, everything.scored.tolist(), everything.score.tolist(), ranks.tolist(), strict=False)
    return [
        Dropped(form, name, score, rank) if scored else Dropped(form, name)
        for form, name, scored, score, rank in columns
    ]


def _post_forms(post_ids: NDArray[np.int64], store: PostStore) -> list[str]:
    """Published ids; a post that has left the store meanwhile keeps its int64."""
    with store.lock:
        rows = store.rows_of(post_ids)
        forms = iter(store.forms(rows[rows >= 0]))
    return [next(forms)[0] if row >= 0 else str(post_id) for row, post_id in zip(rows, post_ids, strict=True)]
