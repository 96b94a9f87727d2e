"""`mbv2kit convert`: a model folder that says where it comes from; from bad files one line, exit code 2 and nothing."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from PIL import Image as PillowImage

from mbv2kit.commands.convert import job
from mbv2kit.commands.eval import job as evaluate
from mbv2kit.commands.train import job as train
from mbv2kit.errors import UserError
from mbv2kit.inference.run import infer
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.weights.class_names import read_class_names
from tests.trap import Trap
from tests.weights.test_open import state_of_torchvision

Run = Callable[..., int]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    path = tmp_path / "net.pth"
    torch.save(state_of_torchvision(5), path)
    return path


def test_the_folder_says_all_that_belongs_to_the_weights(
    run: Run, tmp_path: Path, state: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labels.txt").write_text("a\nb\nc\nd\ne\n\nA note below the labels.\n")
    assert run("convert", job, "source=net.pth", "output=models/net", "licence=mit", "class_names=labels.txt") == 0
    description = json.loads((tmp_path / "models" / "net" / "model.json").read_text())
    assert description["class_names"] == {"classification": ["a", "b", "c", "d", "e"]}
    assert (description["backbone"]["norm_eps"], description["backbone"]["padding"]) == (1e-5, "symmetric")
    assert (description["origin"]["source"], description["origin"]["licence"]) == ("net.pth", "mit")
    said = capfd.readouterr().out
    assert "mobilenet_v2 with width=0.35, norm_eps=1e-05, norm_momentum=0.1: 0.40 M parameters" in said
    model = VisionModel.load(tmp_path / "models" / "net")
    assert torch.equal(model.state_dict()["backbone.layers.layer_1.conv.weight"], stem(state))


@pytest.mark.usefixtures("state")
def test_a_folder_that_holds_a_model_is_left_alone(run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model.json").write_text("precious")
    assert run("convert", job, "source=net.pth", "output=mine") == 2
    assert capfd.readouterr().err == "error: output=mine holds a model; name another folder.\n"
    assert (tmp_path / "mine" / "model.json").read_text() == "precious"


def damage(tmp_path: Path, kind: str) -> None:
    """Makes ``bad`` of one kind."""
    path = tmp_path / "bad"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("<html>404 Not Found</html>")
    elif kind == "code":
        torch.save({"a": torch.zeros(1), "b": Trap(tmp_path / "was_run")}, path)
    else:
        tensors = state_of_torchvision(5)
        if kind == "not a number":
            tensors["features.3.conv.0.1.running_mean"][2] = float("nan")
        elif kind == "wrong shape":
            tensors["classifier.1.weight"] = torch.zeros(5, 1281)
        torch.save(tensors, path)
        if kind == "truncated":
            os.truncate(path, path.stat().st_size // 2)


def stem(state: Path) -> torch.Tensor:
    weight: torch.Tensor = torch.load(state, weights_only=True)["features.0.0.weight"]
    return weight


BAD = ["empty", "text", "code", "not a number", "wrong shape", "truncated", "broken offsets"]


@pytest.mark.parametrize("kind", BAD)
def test_of_a_bad_file_one_line_and_nothing_else(
    run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    if kind == "broken offsets":
        (tmp_path / "bad").write_bytes(b"\xf0\xff\xff\x7fTFL3" + bytes(range(256)))
    else:
        damage(tmp_path, kind)
    PillowImage.new("RGB", (32, 32)).save(tmp_path / "image.png")
    before = sorted(tmp_path.rglob("*"))

    def see(config: DictConfig) -> int:
        return infer(config, ["image.png"])

    tools: list[tuple[str, Any, list[str]]] = [
        ("convert", job, ["source=bad", "output=converted"]),
        ("train", train, ["weights=bad"]),
        ("eval", evaluate, ["weights=bad", "dataset=shapes"]),
        ("infer", see, ["weights=bad"]),
    ]
    for name, tool, arguments in tools:
        assert run(name, tool, *arguments) == 2
        said = capfd.readouterr().err
        assert said.startswith(("error: bad", f"error: {tmp_path / 'bad'}"))
        assert said.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before


def test_labels_come_with_or_without_the_background(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("background\ncat\ndog\n")
    assert read_class_names(path, 2) == ("cat", "dog")
    assert read_class_names(path, 3) == ("background", "cat", "dog")
    with pytest.raises(UserError, match=r"labels\.txt has 3 names, one a line; the model has 7 classes"):
        read_class_names(path, 7)
    with pytest.raises(UserError, match=r"nowhere\.txt: the file could not be read \(No such file"):
        read_class_names(tmp_path / "nowhere.txt", 7)


def test_a_run_starts_from_converted_weights(run: Run, tmp_path: Path, tiny: list[str], state: Path) -> None:
    torch.save(state_of_torchvision(7), state)
    tiny.remove("backbone.width=0.35")
    assert run("train", train, *tiny, f"weights={state}", "optimizer.lr=0", "ema.decay=null", "run_dir=mine") == 0
    model = VisionModel.load(tmp_path / "mine" / "model")
    # The network is that of the weights, although the command line does not repeat it.
    assert (model.spec.backbone["width"], model.spec.backbone["norm_eps"]) == (0.35, 1e-5)
    assert model.spec.mean == pytest.approx((123.675, 116.28, 103.53))
    assert torch.equal(model.state_dict()["backbone.layers.layer_1.conv.weight"], stem(state))
    assert model.spec.origin["started_from"]["source"] == "net.pth"
    log = (tmp_path / "mine" / "train.log").read_text()
    assert "the weights set backbone.width=0.35" in log
    # The classes of the file have no names.
    assert "class_names=FILE must name the classes of the weights, which number them; stays fresh" in log
    assert run("train", train, "resume=mine", "trainer.max_epochs=2") == 0
    # Progressive resizing: the next run starts from this one, at another size.
    tiny[tiny.index("input.size=[32,32]")] = "input.size=[64,64]"
    assert run("train", train, *tiny, "weights=mine", "run_dir=larger") == 0
    larger = VisionModel.load(tmp_path / "larger" / "model")
    assert (larger.preprocess.size, larger.spec.backbone["width"]) == ((64, 64), 0.35)
    assert larger.spec.origin["started_from"]["started_from"]["source"] == "net.pth"
