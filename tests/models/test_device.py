"""The device that computes: its name, what is said where it is missing, and that a model runs there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mbv2kit
from mbv2kit.errors import UserError
from mbv2kit.inference.loading import Request, load
from mbv2kit.models.device import choose_device
from tests.exporting.models import noise, saved, small_model


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets which GPUs torch finds."""

    def call(*found: str) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in found)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in found)

    return call


@pytest.mark.parametrize(
    ("found", "name", "device"),
    [
        ((), "auto", "cpu"),
        (("cuda",), "auto", "cuda"),
        (("mps",), "auto", "mps"),
        (("cuda",), "cuda", "cuda"),
        (("cuda",), "cpu", "cpu"),
    ],
)
def test_a_device_is_chosen_by_name(
    machine: Callable[..., None], found: tuple[str, ...], name: str, device: str
) -> None:
    machine(*found)
    assert choose_device(name) == device


def test_a_device_that_is_not_there_is_a_sentence(machine: Callable[..., None]) -> None:
    machine("mps")
    with pytest.raises(UserError, match=r"device=cuda: torch .* finds no such device on this machine; set device=mps"):
        choose_device("cuda")
    machine()
    with pytest.raises(UserError, match=r"device=mps: .*; set device=cpu, or install"):
        choose_device("mps")
    with pytest.raises(UserError, match=r"There is no device 'cdua'\. Did you mean 'cuda'\?"):
        choose_device("cdua")


def test_what_a_gpu_cannot_run_is_refused(machine: Callable[..., None]) -> None:
    machine("cuda")
    with pytest.raises(UserError, match="memory_budget is for the memory of a CPU, and device is cuda"):
        Request(device="cuda", memory_budget="1MB")
    with pytest.raises(UserError, match=r"precision=int8 runs an exported network as it is; .* and device are for"):
        Request(device="auto", precision="int8")
    # Where there is none, auto is the CPU with all of its runtimes.
    machine()
    assert not Request(device="auto", precision="int8").needs_torch
    assert Request(device="auto").device == "cpu"


@pytest.mark.parametrize("options", [{}, {"tta": "multiscale_flip"}, {"compile": False, "runtime": "torch"}])
def test_a_model_runs_on_the_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: dict[str, Any]) -> None:
    tasks = ("classification", "detection", "segmentation")
    folder = str(saved(small_model(*tasks), tmp_path / "model"))  # type: ignore[arg-type]
    # Another name of the CPU, which is handled as a GPU is.
    monkeypatch.setattr("mbv2kit.inference.loading.choose_device", lambda _: "cpu:0")
    loaded = load(Request(checkpoint=folder, device="cuda", **options))
    monkeypatch.undo()
    assert loaded.notes == (["Runtime: torch on cpu:0"] if "tta" not in options else [])
    image = noise(1, (64, 64))[0]
    ours, wanted = loaded.predictor(image), mbv2kit.load(folder, **options)(image)
    np.testing.assert_array_equal(ours["classification"].scores, wanted["classification"].scores)
    np.testing.assert_array_equal(ours.boxes, wanted.boxes)
    np.testing.assert_array_equal(ours.mask, wanted.mask)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("options", [{}, {"tta": "multiscale_flip"}])
def test_a_gpu_predicts_what_the_cpu_does(tmp_path: Path, options: dict[str, Any]) -> None:
    tasks = ("classification", "detection", "segmentation")
    folder = saved(small_model(*tasks), tmp_path / "model")  # type: ignore[arg-type]
    image = noise(1, (64, 64))[0]
    ours, wanted = (mbv2kit.load(folder, device=device, **options)(image) for device in ("cuda", "cpu"))
    np.testing.assert_allclose(ours["classification"].scores, wanted["classification"].scores, atol=1e-3)
    assert (ours.mask == wanted.mask).mean() > 0.99
