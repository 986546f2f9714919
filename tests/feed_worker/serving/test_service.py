from pathlib import Path

import pytest

from feed_worker.serving.service import load_model
from infra.ports.settings import SettingsError, load


def test_a_directory_without_checkpoints_is_named_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=rf"^FORYOU_CHECKPOINT.*{tmp_path} contains no checkpoint; "):
        load_model(load(checkpoint=str(tmp_path)), [])


def test_an_unknown_configuration_is_named_with_those_there_are() -> None:
    with pytest.raises(SettingsError, match="no model configuration 'huge'; there are nano"):
        load_model(load(model="huge"), [])


def test_without_a_checkpoint_the_model_is_seeded() -> None:
    assert load_model(load(model_seed=7), []).version.startswith("nano-seed7-")
