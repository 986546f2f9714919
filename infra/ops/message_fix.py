"""`--set FIELD=JSON`: a field of refused messages replaced before they are published again."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

import msgspec

from infra.ports.topics import INPUTS
from thunder_ingest.events import DeadLetter, Refused, decode, key_of
from thunder_ingest.events.ids import published_form

KEYING = {"author_id", "user_id"}


@dataclass(frozen=True, slots=True)
class Fix:
    """Top-level fields of a JSON object, and what they are to be."""

    fields: dict[str, msgspec.Raw] = field(default_factory=dict)

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Self:
        """From `FIELD=JSON` each.

        Raises:
            ValueError: naming the one that is not of that form.

        """
        return cls(dict(map(_field, texts)))

    def apply(self, letter: DeadLetter, latest_ms: int) -> tuple[bytes | None, bytes | None]:
        """The key and the value to publish: the raw bytes where there is nothing to change.

        A message that another user or author is set in gets the key of that one.

        Raises:
            Refused: the message could not be used after that either, or came from no topic that apps write.

        """
        if letter.topic not in INPUTS:
            raise Refused(f"{letter.topic!r} is not a topic that apps write")
        if not self.fields:
            return letter.key, letter.value
        value = self._changed(letter)
        event = decode(letter.topic, value)
        if event.at > latest_ms:
            raise Refused("`at` is too far in the future - at `$.at`")
        key = published_form(key_of(event)).encode() if KEYING & self.fields.keys() else letter.key
        return key, value

    def _changed(self, letter: DeadLetter) -> bytes:
        try:
            # the other fields keep their bytes
            known = msgspec.json.decode(letter.value or b"null", type=dict[str, msgspec.Raw])
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise Refused(f"no field can be set: {error}") from None
        return msgspec.json.encode(known | self.fields)


def _field(text: str) -> tuple[str, msgspec.Raw]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ValueError(f"{text!r} is not FIELD=JSON, such as kind='\"original\"' or at=1700000000000")
    try:
        msgspec.json.decode(value)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ValueError(f"{value!r} for {name} is not JSON ({error}); text needs quotes: '{name}=\"…\"'") from None
    return name, msgspec.Raw(value.encode())
