import pytest
from typer import BadParameter

from infra.cli.feeds import speed_factor
from infra.cli.options import duration_ms, published_id


@pytest.mark.parametrize(
    ("text", "expected_ms"),
    [("30d", 2_592_000_000), ("48h", 172_800_000), ("90m", 5_400_000), ("1.5s", 1_500), ("250ms", 250)],
)
def test_a_duration_has_a_unit(text: str, expected_ms: int) -> None:
    assert duration_ms(text) == expected_ms


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "0h", "0.1ms", "1 week", "٣d", "9" * 20 + "d", "9" * 400 + "d"])
def test_a_text_without_a_duration_is_refused(text: str) -> None:
    with pytest.raises(BadParameter):
        duration_ms(text)


@pytest.mark.parametrize(("text", "factor"), [("100x", 100.0), ("0.5", 0.5), ("2.5x", 2.5)])
def test_a_speed_is_a_factor(text: str, factor: float) -> None:
    assert speed_factor(text) == factor


@pytest.mark.parametrize("text", ["", "x", "0x", "-1", "fast", "9" * 400])
def test_a_text_without_a_speed_is_refused(text: str) -> None:
    with pytest.raises(BadParameter):
        speed_factor(text)


@pytest.mark.parametrize("text", ["", "a b", "{1}", "x" * 256, "\x1b[2J"])
def test_a_text_that_cannot_be_an_id_is_refused(text: str) -> None:
    with pytest.raises(BadParameter):
        published_id(text)
