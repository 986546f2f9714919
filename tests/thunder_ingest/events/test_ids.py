import re

import msgspec
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from thunder_ingest.events.ids import MAX_ID, PublishedId, id64, published_form, string_form

DID = "did:plc:z72i7hdynmk6r22z27h6tvur"
FORMS = [
    "550e8400-e29b-41d4-a716-446655440000",
    DID,
    "at://alice.example/app.bsky.feed.post/3k",
    "ünï",
    "-5",
    "+5",
    "1.0",
    "1e3",
    "007",
    "00",
]
integers = st.integers(1, MAX_ID)


@given(integers)
def test_an_integer_id_is_itself_and_so_are_its_digits(number: int) -> None:
    assert id64(number) == id64(str(number)) == number
    assert published_form(number) == published_form(str(number)) == str(number)
    assert string_form(number) is string_form(str(number)) is None


@given(st.integers(1, 999), st.integers(1, 9))
def test_a_number_with_leading_zeros_is_an_id_of_its_own(number: int, zeros: int) -> None:
    form = "0" * zeros + str(number)
    assert id64(form) == xxhash.xxh3_64_intdigest(form.encode()) & MAX_ID != number
    assert published_form(form) == string_form(form) == form


@pytest.mark.parametrize("form", FORMS)
def test_a_string_id_is_one_documented_hash_and_keeps_its_form(form: str) -> None:
    assert id64(form) == xxhash.xxh3_64_intdigest(form.encode()) & MAX_ID
    assert 0 < id64(form) <= MAX_ID
    assert published_form(form) == string_form(form) == form


def test_the_hash_of_an_id_never_changes() -> None:
    assert id64(DID) == 472_140_349_439_473_754


def test_digits_of_other_scripts_are_no_integer() -> None:
    assert id64("١٢٣") != 123
    assert string_form("١٢٣") == "١٢٣"


@pytest.mark.parametrize("outside", [0, -1, MAX_ID + 1, "0", str(MAX_ID + 1), "9" * 255, "x" * 256, "ü" * 128])
def test_an_invalid_id_is_a_value_error(outside: int | str) -> None:
    with pytest.raises(ValueError, match=r"outside 1 … 2\^63-1|bytes; 1 to 255 are allowed"):
        id64(outside)


@pytest.mark.parametrize("form", FORMS)
def test_the_schema_takes_the_forms_of_the_field(form: str) -> None:
    assert msgspec.convert(form, PublishedId) == form


@pytest.mark.parametrize(
    "form", ["", "a b", "a{b", "a}b", "a\nb", "\u00a0", "a\x00", "a\x85", "x" * 256, 0, -1, 2**63, 1.5]
)
def test_the_schema_refuses_an_id_that_would_break_a_key(form: object) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(form, PublishedId)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60))
def test_no_form_that_the_schema_takes_has_spaces_braces_or_control_characters(form: str) -> None:
    broken = re.search(r"[{}\s\x00-\x1f\x7f-\x9f]", form) is not None
    if broken:
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(form, PublishedId)
    else:
        assert msgspec.convert(form, PublishedId) == form
