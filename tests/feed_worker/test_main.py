from pathlib import Path

import pytest

from feed_worker.__main__ import model_of
from infra.ports.settings import SettingsError, load


def test_a_directory_without_checkpoints_is_named_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=rf"^FORYOU_CHECKPOINT.*{tmp_path} holds no checkpoint$"):
        model_of(load(checkpoint=str(tmp_path)), [])


def test_an_unknown_configuration_is_named_with_those_there_are() -> None:
    with pytest.raises(SettingsError, match="no model configuration 'huge'; there are nano"):
        model_of(load(model="huge"), [])


def test_without_a_checkpoint_the_model_is_seeded() -> None:
    assert model_of(load(model_seed=7), []).version.startswith("nano-seed7-")
