from pathlib import Path

import pytest

from mbv2kit.errors import UserError
from mbv2kit.models.folder import ModelFolder
from mbv2kit.models.run_folder import chosen_checkpoint, find_model


@pytest.mark.parametrize("place", ["run/model", "run", "run/model/model.json", "run/model/model.safetensors"])
def test_a_checkpoint_is_a_run_or_a_model(tmp_path: Path, place: str) -> None:
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "model" / "model.json").touch()
    assert find_model(str(tmp_path / place), None) == ModelFolder(tmp_path / "run" / "model")


def test_what_is_no_model_of_ours_is_none(tmp_path: Path) -> None:
    assert find_model(str(tmp_path / "nowhere"), None) is None
    assert find_model(str(tmp_path), None) is None
    (tmp_path / "model.json").touch()
    assert find_model(str(tmp_path / "other.pth"), None) is None


def test_two_names_for_one_model_are_a_sentence() -> None:
    assert chosen_checkpoint("a", None) == chosen_checkpoint(None, "a") == "a"
    assert chosen_checkpoint(None, None) is None
    with pytest.raises(UserError, match="checkpoint=a and weights=b both name a model"):
        chosen_checkpoint("a", "b")


def test_without_a_checkpoint_the_newest_run_of_the_task_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = Path("outputs", "detection", "voc", "a")
    (run / "model").mkdir(parents=True)
    (run / "model" / "model.json").touch()
    (run / "metrics.json").write_text('{"task": "detection"}')
    assert find_model(None, "detection") == find_model(None, None) == ModelFolder(run / "model")
    with pytest.raises(UserError, match="no finished segmentation run"):
        find_model(None, "segmentation")
