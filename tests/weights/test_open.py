from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mbv2kit.errors import UserError
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.models.folder import ModelFolder
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.weights import hub, torchvision
from mbv2kit.weights.open import open_model
from mbv2kit.weights.published import Published


@pytest.fixture
def model() -> VisionModel:
    spec = ModelSpec(
        backbone={"name": "mobilenet_v2", "width": 0.35},
        heads={"classification": {"name": "classifier"}},
        class_names={"classification": ("a", "b")},
        input=Preprocess((64, 64)),
    )
    return VisionModel(spec).eval()


def state_of_torchvision(classes: int = 5) -> dict[str, torch.Tensor]:
    from torchvision.models import mobilenet_v2

    network: torch.nn.Module = mobilenet_v2(num_classes=classes, width_mult=0.35)
    return network.state_dict()


@pytest.mark.parametrize("place", ["run", "run/model", "run/model/model.safetensors"])
def test_a_run_or_a_model_folder_is_opened(model: VisionModel, tmp_path: Path, place: str) -> None:
    model.save(tmp_path / "run" / "model")
    opened, folder = open_model(str(tmp_path / place))
    assert folder == ModelFolder(tmp_path / "run" / "model")
    assert opened.spec == model.spec


@pytest.mark.parametrize("name", ["state.pth", "state.safetensors"])
def test_a_file_is_known_by_the_names_of_its_tensors(tmp_path: Path, name: str) -> None:
    if name.endswith(".pth"):
        torch.save(state_of_torchvision(), tmp_path / name)
    else:
        save_file(state_of_torchvision(), tmp_path / name)
    opened, folder = open_model(str(tmp_path / name))
    assert folder is None
    assert opened.spec.backbone["width"] == 0.35
    assert opened.spec.origin["source"] == name
    assert len(opened.spec.origin["sha256"]) == 64
    assert not opened.training


def test_names_say_where_to_fetch(model: VisionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(state_of_torchvision(), tmp_path / "state.pth")
    model.save(tmp_path / "ours")
    asked: list[str] = []

    def fetch(name: str) -> Path:
        asked.append(f"torchvision {name}")
        return tmp_path / "state.pth"

    def pull(repository: str) -> Path:
        asked.append(f"hub {repository}")
        return tmp_path / "ours"

    monkeypatch.setattr(torchvision, "fetch", fetch)
    monkeypatch.setattr(hub, "pull", pull)
    assert open_model("torchvision:mobilenet_v2")[0].spec.origin["source"] == "torchvision:mobilenet_v2"
    assert open_model("hub:me/mine@main")[0].spec == model.spec
    open_model("timm:mobilenetv2_100")
    assert asked == ["torchvision mobilenet_v2", "hub me/mine@main", "hub timm/mobilenetv2_100.ra_in1k"]


def test_an_unknown_network_is_refused(tmp_path: Path) -> None:
    torch.save({"transformer.weight": torch.zeros(2), "transformer.bias": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(
        UserError, match=r"other\.pth holds 2 tensors \(transformer\.weight, .* of an unknown network; known are"
    ):
        open_model(str(tmp_path / "other.pth"))


def test_parts_of_own_models_are_not_taken_for_published_weights(model: VisionModel, tmp_path: Path) -> None:
    torch.save({"state_dict": {f"model.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"last\.ckpt is the state of an unfinished run; .* give its folder\."):
        open_model(str(tmp_path / "last.ckpt"))
    save_file(model.state_dict(), tmp_path / "alone.safetensors")
    with pytest.raises(
        UserError, match=r"alone\.safetensors holds the tensors of a model folder, but there is no model\.json"
    ):
        open_model(str(tmp_path / "alone.safetensors"))


@pytest.mark.parametrize("name", ["model.onnx", "cats.onnx", "model_int8.pte"])
def test_an_exported_file_away_from_its_folder_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x08\x08\x12\x07pytorch and more")
    with pytest.raises(UserError, match=rf"{name} looks like an exported file, .* next to the model\.json"):
        open_model(str(tmp_path / name))


def test_tensors_of_another_shape_are_refused(tmp_path: Path) -> None:
    tensors = state_of_torchvision()
    name = "features.5.conv.1.0.weight"
    tensors[name] = tensors[name][:-1]
    torch.save(tensors, tmp_path / "state.pth")
    with pytest.raises(UserError, match=r"state\.pth has values of shape \(\d+, 1, 3, 3\) for 'backbone\.\S+'"):
        open_model(str(tmp_path / "state.pth"))


def test_a_missing_tensor_is_reported(model: VisionModel) -> None:
    spec = replace(model.spec, origin={"source": "a.pth"})
    tensors = model.state_dict()
    del tensors["backbone.layers.layer_1.conv.weight"]
    with pytest.raises(UserError, match=r"a\.pth has no values for 'backbone\.layers\.layer_1\.conv\.weight'"):
        Published(spec=spec, tensors=tensors).build()
