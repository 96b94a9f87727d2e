"""Segmentation networks of other libraries, from the pixels of an image to a mask of the image's size."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mbv2kit.lab.benchmark.competitors.images import normalize, pixels, to_planes
from mbv2kit.lab.benchmark.workload import Workload

SIZE = 513
# Height and width of the image.
IMAGE = (480, 640)


def transformers(threads: int) -> Workload:
    """``MobileNetV2ForSemanticSegmentation`` at output stride 16; ``network`` ends at its small logits."""
    import torch
    from transformers import MobileNetV2Config, MobileNetV2ForSemanticSegmentation

    torch.set_num_threads(threads)
    config: Any = MobileNetV2Config
    model: Any = MobileNetV2ForSemanticSegmentation(config(num_labels=21, output_stride=16, image_size=SIZE))
    model.eval()
    return _torch_calls(lambda images: model(images).logits)


def torchvision(threads: int) -> Workload:
    """``deeplabv3_mobilenet_v3_large``; ``network`` ends at its full-size logits."""
    import torch
    import torchvision

    torch.set_num_threads(threads)
    model: Any = torchvision.models.segmentation.deeplabv3_mobilenet_v3_large(
        weights_backbone=None, num_classes=21
    ).eval()
    return _torch_calls(lambda images: model(images)["out"])


def _torch_calls(network: Any) -> Workload:
    import torch
    from torch.nn.functional import interpolate

    image = pixels(1, *IMAGE)[0]
    ready = torch.from_numpy(to_planes(normalize(_stretched(image)[None])))

    @torch.inference_mode()
    def whole() -> object:
        images = torch.from_numpy(to_planes(normalize(_stretched(image)[None])))
        logits = interpolate(network(images), IMAGE, mode="bilinear", align_corners=False)
        return logits.argmax(dim=1).to(torch.uint8).numpy()

    @torch.inference_mode()
    def alone() -> object:
        return network(ready)

    return Workload({"whole": whole, "network": alone})


def litert(threads: int, path: str) -> Workload:
    """A file with uint8 input whose output is a class index for each pixel."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path, num_threads=threads)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    image = pixels(1, *IMAGE)[0]
    ready = _stretched(image)[None]

    def network(images: NDArray[np.uint8] = ready) -> NDArray[Any]:
        interpreter.set_tensor(source["index"], images)
        interpreter.invoke()
        mask: NDArray[Any] = interpreter.get_tensor(target["index"])
        return mask

    def whole() -> object:
        mask = np.squeeze(network(_stretched(image)[None])).astype(np.uint8)
        return cv2.resize(mask, IMAGE[::-1], interpolation=cv2.INTER_NEAREST)

    return Workload({"whole": whole, "network": network})


def _stretched(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
