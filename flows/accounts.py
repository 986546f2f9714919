"""social-graph ▸ accounts: the status of each account, compacted by user id.

All events of accounts come to one process of the cluster. Its state is the topic itself, which it reads at its start.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Final

from flows.decoding import Decoded
from flows.process import restored_from
from flows.sinks import EpochSink
from infra.ports.broken_records import readable
from infra.ports.producer import Record
from infra.ports.settings import Settings
from thunder_ingest.events import Account, AccountState, key_of_id, pack, unpack_account
from thunder_ingest.events.ids import id64
from thunder_ingest.users.accounts import AccountTable

log = logging.getLogger(__name__)

TOPIC: Final = "accounts"
PART: Final = "accounts"
"""The one part of the sink: events of accounts are rare."""


def account_states(decoded: Decoded) -> list[tuple[str, list[AccountState]]]:
    """Return the states by the events of a batch, keyed for the sink; none for a batch without such events."""
    if decoded.batch.topic != "social-graph":
        return []
    states = [
        AccountState(user_id=id64(event.user_id), status=event.status, at=event.at)
        for event in decoded.events
        if type(event) is Account
    ]
    return [(PART, states)] if states else []


class ApplyAccounts:
    """Joins states of accounts and returns a record for each that has changed."""

    def __init__(self, restore: Callable[[AccountTable], None]) -> None:
        self._table, self._restore = AccountTable(), restore
        self._restored = False

    def __call__(self, states: Sequence[AccountState]) -> list[Record]:
        """Return the records of the changed accounts."""
        if not self._restored:
            self._restore(self._table)
            self._restored = True
        return [Record(TOPIC, key_of_id(state.user_id), pack(state)) for state in self._table.apply(states)]


def restore_from(settings: Settings) -> Callable[[AccountTable], None]:
    """Return a function that fills a table from the topic."""

    def restore(table: AccountTable) -> None:
        for messages in restored_from(settings, TOPIC):
            live = (message for message in messages if message.value())
            table.apply(readable(TOPIC, live, lambda message: unpack_account(message.value())))
        log.info("%d accounts restored", len(table))

    return restore


def account_sink(settings: Settings) -> EpochSink:
    """Return the sink of `account_states`."""
    return EpochSink(settings, [PART], lambda _: ApplyAccounts(restore_from(settings)))
