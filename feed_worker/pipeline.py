"""The For You pipeline: the one place that lists its stages, in order."""

from collections.abc import Mapping

import redis

from feed_worker.candidates.ports import ModelEngine, UserStateStore
from feed_worker.filters.age import AgeFilter
from feed_worker.filters.author_socialgraph import AuthorSocialgraphFilter
from feed_worker.filters.core_data import CoreDataFilter
from feed_worker.filters.dedup_conversation import DedupConversationFilter
from feed_worker.filters.drop_duplicates import DropDuplicatesFilter
from feed_worker.filters.ineligible_subscription import IneligibleSubscriptionFilter
from feed_worker.filters.language import LanguageFilter
from feed_worker.filters.muted_keyword import MutedKeywordFilter
from feed_worker.filters.oon_retweet_reply import OONRetweetReplyFilter
from feed_worker.filters.previously_seen import PreviouslySeenFilter
from feed_worker.filters.previously_served import PreviouslyServedFilter
from feed_worker.filters.retweet_dedup import RetweetDedupFilter
from feed_worker.filters.self_post import SelfPostFilter
from feed_worker.filters.video import VideoFilter
from feed_worker.filters.visibility import CurrentVisibilityFilter, VisibilityFilter
from feed_worker.framework.budgets import FORYOU_BUDGETS_MS, Budgets
from feed_worker.framework.pipeline import Pipeline
from feed_worker.hydrators.in_network import InNetworkHydrator
from feed_worker.hydrators.related_posts import RelatedPostsHydrator
from feed_worker.query_hydrators.user_state import UserStateHydrator
from feed_worker.scorers.author_diversity import AuthorDiversityScorer
from feed_worker.scorers.dpp import DPPScorer
from feed_worker.scorers.new_author_boost import NewAuthorBoostScorer
from feed_worker.scorers.oon import OONScorer
from feed_worker.scorers.phoenix import PhoenixScorer
from feed_worker.scorers.weighted import WeightedScorer
from feed_worker.selectors.top_k import TopKSelector
from feed_worker.side_effects.served_history import ServedHistory
from feed_worker.sources.phoenix_retrieval import PhoenixRetrievalSource
from feed_worker.sources.popular import PopularSource
from feed_worker.sources.thunder import ThunderSource
from phoenix.index.retrieval_index import VectorIndex
from thunder_ingest.posts.store import PostStore


def foryou_pipeline(
    store: PostStore,
    index: VectorIndex,
    model: ModelEngine,
    users: UserStateStore,
    rankers: Mapping[str, ModelEngine] | None = None,
    *,
    budgets_ms: Budgets = FORYOU_BUDGETS_MS,
) -> Pipeline:
    """The pipeline over a worker's state; what it is tuned by comes with each query.

    The names and the order are the published ones, but that visibility is checked before scoring too. How old a post
    may be is the store's limit. Sources search at the same time, but that what is popular waits for what the others
    find. A Redis that does not answer is the caller's to wait for.

    `rankers` are those of experiments, by checkpoint. They score what the served model's vectors have found, since the
    index has vectors of that version alone.
    """
    return Pipeline(
        query_hydrators=[UserStateHydrator(users)],
        sources=[
            ThunderSource(store),
            PhoenixRetrievalSource(store, index, model),
            PopularSource(store),
        ],
        hydrators=[
            InNetworkHydrator(),
            RelatedPostsHydrator(store),
        ],
        filters=[
            DropDuplicatesFilter(),
            CoreDataFilter(),
            AgeFilter(store.limits.max_age_ms),
            SelfPostFilter(),
            OONRetweetReplyFilter(),
            RetweetDedupFilter(),
            IneligibleSubscriptionFilter(),
            PreviouslySeenFilter(),
            PreviouslyServedFilter(),
            MutedKeywordFilter(store),
            AuthorSocialgraphFilter(),
            VideoFilter(),
            LanguageFilter(store),
            VisibilityFilter(store),
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
        passes=(redis.ConnectionError, redis.TimeoutError),
        budgets_ms=budgets_ms,
    )
