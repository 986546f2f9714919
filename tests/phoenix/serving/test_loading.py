import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from phoenix.serving.loading import load_announced, load_first
from phoenix.training.checkpoints import phoenix_of
from tests.phoenix.saved import TINY, saved
from thunder_ingest.events import ModelPointer


def pointer(version: str, location: Path, at: int = 1) -> ModelPointer:
    return ModelPointer(name="phoenix", version=version, location=str(location), at=at)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return saved(tmp_path)


def test_an_announced_model_of_the_same_configuration_shares_compiled_functions(
    checkpoint: Path, tmp_path: Path
) -> None:
    before = phoenix_of(checkpoint)
    after = phoenix_of(saved(tmp_path / "other", seed=1))
    before.warm_up(parts=("embed",))
    loaded = load_announced(pointer(after.version, tmp_path / "other"), before)
    loaded.warm_up(parts=("embed",))
    assert loaded.version == after.version != before.version
    assert loaded.traces == 0


def test_a_checkpoint_of_another_version_is_refused_in_one_line(checkpoint: Path) -> None:
    holds = phoenix_of(checkpoint).version
    with pytest.raises(ValueError, match=rf"^model m-1 was announced and cannot be used: {checkpoint} holds {holds}$"):
        load_announced(pointer("m-1", checkpoint))


@pytest.mark.parametrize("location", ["", "nowhere"])
def test_a_missing_checkpoint_is_refused_in_one_line(location: str) -> None:
    with pytest.raises(ValueError, match=r"^model m-1 was announced and cannot be used: [^\n]+$"):
        load_announced(ModelPointer(name="phoenix", version="m-1", location=location, at=1))


def test_a_process_starts_with_the_newest_usable_announcement(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    version = phoenix_of(checkpoint).version
    lost = pointer("m-1", tmp_path / "nowhere", at=9)
    found = load_first([lost, pointer(version, checkpoint, at=5)], "", "nano", 1)
    assert (found.model.version, found.at) == (version, 5)
    assert "m-1 was announced and cannot be used" in caplog.text


def test_a_process_without_a_usable_announcement_starts_with_the_models_of_the_settings(
    checkpoint: Path, tmp_path: Path
) -> None:
    version = phoenix_of(checkpoint).version
    found = load_first([pointer("m-1", tmp_path / "nowhere")], str(checkpoint), "nano", 1)
    assert (found.model.version, found.at) == (version, 0)
    assert load_first([], "", "nano", 1).model.version.startswith("nano-seed1-")


def test_untrained_models_never_replace_announced_ones(tmp_path: Path) -> None:
    lost = [pointer("m-2", tmp_path / "nowhere", at=2), pointer("m-1", tmp_path / "nowhere", at=1)]
    with pytest.raises(
        ValueError, match=r"^model m-2 was announced and cannot be used: [^\n]+; no earlier one can be used"
    ):
        load_first(lost, "", "nano", 1)


def test_a_process_serves_the_checkpoint_before_a_damaged_one(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    version = phoenix_of(checkpoint).version
    later = shutil.copytree(checkpoint, checkpoint.with_name("step-00000009"))
    (later / "card.json").write_bytes(b"")
    assert load_first([], str(tmp_path), "nano", 1).model.version == version
    assert f"{later} is damaged" in caplog.text
    assert f"{checkpoint} is used instead" in caplog.text


def test_wider_models_compile_their_own_functions(checkpoint: Path, tmp_path: Path) -> None:
    wide = saved(tmp_path / "wide", replace(TINY, embed_dim=16))
    loaded = load_announced(pointer(phoenix_of(wide).version, wide), phoenix_of(checkpoint))
    loaded.warm_up(parts=("embed",))
    assert loaded.traces == len(TINY.post_buckets)
