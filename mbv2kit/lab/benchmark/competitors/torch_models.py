"""MobileNetV2 of torchvision, timm and transformers in PyTorch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mbv2kit.lab.benchmark.competitors.constants import SIZE
from mbv2kit.lab.benchmark.competitors.images import normalize, pixels, to_planes
from mbv2kit.lab.benchmark.workload import Workload


def torchvision_eager(threads: int, batch: int) -> Workload:
    """``torchvision.models.mobilenet_v2`` in eager mode."""
    return _calls(_torchvision(), threads, batch)


def torchvision_compiled(threads: int, batch: int) -> Workload:
    """The same under ``torch.compile`` with frozen weights."""
    import torch._inductor.config as inductor

    inductor.freezing = True
    torch.set_num_threads(threads)
    compiled: Callable[[Tensor], Tensor] = torch.compile(_torchvision())
    return _calls(compiled, threads, batch)


def timm_eager(threads: int, batch: int) -> Workload:
    """``timm.create_model('mobilenetv2_100')``."""
    import timm

    return _calls(timm.create_model("mobilenetv2_100").eval(), threads, batch)


def transformers_eager(threads: int, batch: int) -> Workload:
    """``transformers.MobileNetV2ForImageClassification``."""
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    config: Any = MobileNetV2Config
    model: Any = MobileNetV2ForImageClassification(config(num_labels=1000))
    model.eval()
    return _calls(lambda images: model(images).logits, threads, batch)


def _torchvision() -> nn.Module:
    import torchvision

    model: nn.Module = torchvision.models.mobilenet_v2().eval()
    return model


def _calls(model: Callable[[Tensor], Tensor], threads: int, batch: int) -> Workload:
    torch.set_num_threads(threads)
    images = pixels(batch, SIZE, SIZE)
    ready = torch.from_numpy(to_planes(normalize(images)))

    @torch.inference_mode()
    def network() -> object:
        return model(ready).numpy()

    @torch.inference_mode()
    def whole() -> object:
        return model(torch.from_numpy(to_planes(normalize(images)))).numpy()

    return Workload({"whole": whole, "network": network})
