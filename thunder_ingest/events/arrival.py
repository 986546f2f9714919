"""The time of an event against its arrival: a clock that is fast never wins over a later word."""

from thunder_ingest.events.published import Event
from thunder_ingest.events.refusals import Refused


def count_from_arrival(event: Event, arrived_ms: int, tolerance_ms: int) -> None:
    """Set the time of an event that lies ahead of its arrival to the arrival.

    A log that is read again leads to the same times, since the broker keeps the arrival with the message.

    Args:
        event: changed in place.
        arrived_ms: its arrival at the broker, epoch ms.
        tolerance_ms: the distance ahead that is accepted, for clocks that differ.

    Raises:
        Refused: the event lies further ahead.

    """
    ahead_ms = event.at - arrived_ms
    if ahead_ms > tolerance_ms:
        raise Refused(
            f"`at` is {ahead_ms / 1000:,.0f} s ahead of the arrival, too far in the future; at most "
            f"{tolerance_ms / 1000:,.0f} s are allowed - at `$.at`"
        )
    if ahead_ms > 0:
        event.at = arrived_ms
