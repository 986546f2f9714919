"""Keys of Redis whose value cannot be read: counted, and each is named in the log once."""

import logging
import threading
from typing import Final

log = logging.getLogger(__name__)

_NAMED: Final = 10_000  # keys; the names of more are not logged


class BrokenKeys:
    """The broken keys that this process has met. Any thread may call."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._count = 0
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """The number of reads and writes that were skipped."""
        return self._count

    def skip(self, key: str, reason: object) -> None:
        """Count a read or write that is skipped because of its key; log the first of each key."""
        with self._lock:
            self._count += 1
            is_new = key not in self._names and len(self._names) < _NAMED
            if is_new:
                self._names.add(key)
        if is_new:
            log.error("%s in Redis is skipped: %s; all other keys are used", key, reason)


broken_keys: Final = BrokenKeys()
"""Those of this process."""
