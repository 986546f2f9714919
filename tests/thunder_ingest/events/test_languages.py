import pytest

from thunder_ingest.events.languages import primary_language


@pytest.mark.parametrize(
    ("tag", "language"),
    [
        ("en", "en"),
        ("EN", "en"),
        ("en-US", "en"),
        ("en_US.UTF-8", "en"),
        (" eng ", "en"),
        ("zh-Hant", "zh"),
        ("zho-Hans-CN", "zh"),
        ("cmn", "zh"),
        ("chi", "zh"),
        ("ger", "de"),
        ("deu-AT", "de"),
        ("iw", "he"),
        ("in", "id"),
        ("nb", "no"),
        ("nno", "no"),
        ("fil", "tl"),
        ("haw", "haw"),
        ("", ""),
        ("und", ""),
        ("UND-Latn", ""),
        ("zxx", ""),
        ("mul", ""),
        ("mis", ""),
        ("qme", ""),
        ("x-klingon", ""),
        ("english", ""),
        ("??", ""),
        ("1", ""),
    ],
)
def test_a_tag_has_one_primary_language(tag: str, language: str) -> None:
    assert primary_language(tag) == language
