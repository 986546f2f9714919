"""The columns of engagement counts: one for each of ACTIONS, in their order, then impressions."""

from typing import Final

from thunder_ingest.events import ACTION_INDEX, ACTIONS, IMPRESSION

COUNT_COLUMNS: Final = len(ACTIONS) + 1
"""The number of columns: 20."""
DWELL_TIME: Final = ACTION_INDEX["dwell_time"]
"""The column of the sum of dwell, in milliseconds."""
IMPRESSIONS: Final = IMPRESSION
"""The last column."""
