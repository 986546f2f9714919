"""The For You pipeline: the one place that lists its stages, in order."""

from collections.abc import Mapping

from feed_worker.candidates.ports import ModelEngine, PageStore, UserStateStore
from feed_worker.filters.age import AgeFilter
from feed_worker.filters.author_socialgraph import AuthorSocialgraphFilter
from feed_worker.filters.core_data import CoreDataFilter
from feed_worker.filters.dedup_conversation import DedupConversationFilter
from feed_worker.filters.drop_duplicates import DropDuplicatesFilter
from feed_worker.filters.feedback import FeedbackFilter
from feed_worker.filters.ineligible_subscription import IneligibleSubscriptionFilter
from feed_worker.filters.language import LanguageFilter
from feed_worker.filters.muted_keyword import MutedKeywordFilter
from feed_worker.filters.oon_retweet_reply import OONRetweetReplyFilter
from feed_worker.filters.previously_seen import PreviouslySeenFilter
from feed_worker.filters.previously_served import PreviouslyServedFilter
from feed_worker.filters.repeat import RepeatFilter
from feed_worker.filters.retweet_dedup import RetweetDedupFilter
from feed_worker.filters.self_post import SelfPostFilter
from feed_worker.filters.video import VideoFilter
from feed_worker.filters.visibility import CurrentVisibilityFilter, VisibilityFilter
from feed_worker.framework.budgets import FORYOU_BUDGETS_MS, Budgets
from feed_worker.framework.pipeline import Pipeline
from feed_worker.hydrators.in_network import InNetworkHydrator
from feed_worker.hydrators.related_posts import RelatedPostsHydrator
from feed_worker.hydrators.repeat import RepeatHydrator
from feed_worker.query_hydrators.page import PageHydrator
from feed_worker.query_hydrators.user_state import UserStateHydrator
from feed_worker.scorers.author_diversity import AuthorDiversityScorer
from feed_worker.scorers.dpp import DPPScorer
from feed_worker.scorers.new_author_boost import NewAuthorBoostScorer
from feed_worker.scorers.oon import OONScorer
from feed_worker.scorers.phoenix import PhoenixScorer
from feed_worker.scorers.weighted import WeightedScorer
from feed_worker.selectors.top_k import TopKSelector
from feed_worker.side_effects.served_history import ServedHistory
from feed_worker.sources.check import CheckSource
from feed_worker.sources.phoenix_retrieval import PhoenixRetrievalSource
from feed_worker.sources.popular import PopularSource
from feed_worker.sources.repeat import RepeatSource
from feed_worker.sources.thunder import ThunderSource
from infra.ports.redis import REDIS_ERRORS
from phoenix.index.retrieval_index import VectorIndex
from thunder_ingest.posts.store import PostStore


def foryou_pipeline(
    store: PostStore,
    index: VectorIndex,
    model: ModelEngine,
    users: UserStateStore,
    rankers: Mapping[str, ModelEngine] | None = None,
    *,
    pages: PageStore | None = None,
    budgets_ms: Budgets = FORYOU_BUDGETS_MS,
) -> Pipeline:
    """The pipeline over a worker's state; each query brings its own parameters.

    Names and order are the published ones, but for two filters. Visibility is also checked before scoring. One of a
    post and its reposts is kept after all other filters, so that a hidden repost displaces no post that may be shown.
    Repeats are not published: a source, a hydrator and the last filter before scoring.

    Sources run in parallel, except PopularSource, which waits for the others, and RepeatSource, which waits for it.
    Errors of Redis propagate to the caller, which waits and runs the batch again, or ends; only a value that cannot be
    read fails its own request.

    Args:
        store: the posts; its `max_age_ms` limits the age of candidates.
        index: the vectors of `model`.
        model: the engine that serves.
        users: the users' state.
        rankers: the engines of experiments, by checkpoint. They score the candidates that `model` retrieves, since the
            index has only its vectors.
        pages: the pages that viewers have read; without them a page repeats nothing.
        budgets_ms: time budgets by stage or component.

    """
    return Pipeline(
        query_hydrators=[*([PageHydrator(pages)] if pages else []), UserStateHydrator(users)],
        sources=[
            ThunderSource(store),
            PhoenixRetrievalSource(store, index, model),
            PopularSource(store),
            RepeatSource(store),
            CheckSource(store),
        ],
        hydrators=[
            InNetworkHydrator(),
            RelatedPostsHydrator(store),
            RepeatHydrator(),
        ],
        filters=[
            DropDuplicatesFilter(),
            CoreDataFilter(),
            AgeFilter(store.limits.max_age_ms),
            SelfPostFilter(),
            OONRetweetReplyFilter(),
            IneligibleSubscriptionFilter(),
            PreviouslySeenFilter(),
            PreviouslyServedFilter(),
            MutedKeywordFilter(store),
            AuthorSocialgraphFilter(),
            FeedbackFilter(),
            VideoFilter(),
            LanguageFilter(store),
            VisibilityFilter(store),
            RetweetDedupFilter(),
            RepeatFilter(),
        ],
        scorers=[
            PhoenixScorer(store, model, rankers),
            WeightedScorer(),
            NewAuthorBoostScorer(store),
            AuthorDiversityScorer(),
            OONScorer(),
            DPPScorer(index, model),
        ],
        selector=TopKSelector(),
        post_selection_filters=[
            CurrentVisibilityFilter(store),
            DedupConversationFilter(),
        ],
        side_effects=[ServedHistory(users)],
        passes=REDIS_ERRORS,
        budgets_ms=budgets_ms,
    )
