"""Replace fields of refused messages before they are published again (`--set FIELD=JSON`)."""

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
    """New values of top-level fields of a JSON object."""

    fields: dict[str, msgspec.Raw] = field(default_factory=dict)

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Self:
        """Parse one `FIELD=JSON` each.

        Raises:
            ValueError: a text does not have that form.

        """
        return cls(dict(map(_field, texts)))

    def apply(self, letter: DeadLetter, latest_ms: int) -> tuple[bytes | None, bytes | None]:
        """The key and the value to publish; without fields these are the raw bytes.

        A new user or author in the message also becomes its key.

        Raises:
            Refused: the changed message is still invalid, or its topic is not an input topic.

        """
        if letter.topic not in INPUTS:
            raise Refused(f"{letter.topic!r} is not an input topic")
        if letter.is_cut:
            raise Refused("the dead letter has only a part of the message, which was too large")
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
            # decoding to raw values keeps the bytes of the other fields
            known = msgspec.json.decode(letter.value or b"null", type=dict[str, msgspec.Raw])
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise Refused(f"cannot set a field: {error}") from None
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
