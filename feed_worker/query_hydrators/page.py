"""PageHydrator: finds where the pages of a viewer began."""

from collections.abc import Sequence

from feed_worker.candidates.ports import PageStore
from feed_worker.candidates.query import Query
from feed_worker.framework.components import QueryFields, QueryHydrator


class PageHydrator(QueryHydrator):
    """Reads the time of the first page of each page, so that a page repeats no earlier one, and may repeat older posts.

    Without that time, for example because the page before is older than an hour, a page repeats nothing. The published
    system has no such component: its clients send the ids that they show.
    """

    def __init__(self, pages: PageStore) -> None:
        self._pages = pages

    def enable(self, query: Query) -> bool:
        """True for a page."""
        return query.request.after is not None

    def hydrate(self, queries: Sequence[Query]) -> list[QueryFields]:
        """The time under which the first page of each query was served; 0 if it is unknown."""
        found = self._pages.first_pages([(query.user_form, query.request.after or "") for query in queries])
        return [{"first_page_ms": at_ms} for at_ms in found]
