"""Opens models and weights by whatever a user may call them: a run, a folder, a file or a published name."""

from pathlib import Path

from mbv2kit.errors import UserError
from mbv2kit.models.folder import ModelFolder
from mbv2kit.models.run_folder import find_model
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.weights import (
    frozen_graph,
    hub,
    hugging_face,
    lufficc_ssd,
    mmdetection,
    pytorch_ssd,
    tf_checkpoint,
    tflite,
    timm,
    torchvision,
)
from mbv2kit.weights.class_names import with_class_names
from mbv2kit.weights.hub_folder import CONFIG_FILE, read_config
from mbv2kit.weights.published import Published
from mbv2kit.weights.tensor_files import kind_of, read_checkpoint, sha256_of

SAVED_MODEL = "saved_model.pb"
KINDS = (
    "a run or model folder, a .tflite, .pb, .pth or .safetensors file, a folder from the Hugging Face Hub, or a name "
    "such as torchvision:mobilenet_v2, timm:mobilenetv2_100 or hub:OWNER/REPOSITORY"
)


def open_model(
    checkpoint: str | None, task: str | None = None, class_names: str | None = None
) -> tuple[VisionModel, ModelFolder | None]:
    """Loads the model that a ``checkpoint`` or ``weights`` key names, on the CPU and in evaluation mode.

    Args:
        checkpoint: A run, model folder, published file or name; None takes the newest finished run.
        task: Task of the newest run; None allows any task.
        class_names: Text file with the names of the classes; None keeps those that come with the model.

    Returns:
        The model, and its model folder; None for published weights.

    Raises:
        UserError: The checkpoint does not exist or cannot be read.
    """
    folder = find_model(checkpoint, task)
    if folder is not None:
        model = VisionModel.load(folder.path)
    else:
        assert checkpoint is not None
        found = read_weights(checkpoint)
        model = found if isinstance(found, VisionModel) else found.build()
    model.spec = with_class_names(model.spec, class_names)
    return model, folder


def read_weights(source: str) -> Published | VisionModel:
    """Reads published weights, or a model folder of mbv2kit from the Hub.

    Args:
        source: A file, a folder or ``ORIGIN:NAME``.

    Raises:
        UserError: The source does not exist, is damaged, or holds an unknown network.
    """
    origin, _, name = source.partition(":")
    if origin == "torchvision":
        return _read_file(torchvision.fetch(name), source)
    if origin == "timm":
        return _read_folder(hub.pull(timm.repository(name)), source)
    if origin == "hub":
        return _read_folder(hub.pull(name), source)
    path = Path(source)
    if (prefix := tf_checkpoint.prefix_of(path)) is not None:
        return tf_checkpoint.read(prefix, prefix.name)
    if path.is_dir():
        return _read_folder(path, path.resolve().name)
    if path.is_file():
        return _read_file(path, path.name)
    raise UserError(f"There is no file or folder {source}; give {KINDS}.")


def _read_folder(folder: Path, source: str) -> Published | VisionModel:
    if find_model(str(folder)) is not None:
        return VisionModel.load(folder)
    if (folder / SAVED_MODEL).is_file():
        return _read_file(folder / SAVED_MODEL, source)
    if not (folder / CONFIG_FILE).is_file():
        raise UserError(
            f"{folder} holds neither a model.json, nor a folder model with one, nor a config.json; give {KINDS}."
        )
    config = read_config(folder)
    if "model_type" in config:
        return hugging_face.read_folder(folder, source)
    if "architecture" in config:
        return timm.read_folder(folder, source)
    raise UserError(f"{folder / CONFIG_FILE} names neither a model_type of transformers nor an architecture of timm.")


def _read_file(path: Path, source: str) -> Published:
    kind = kind_of(path)
    if kind == "tflite":
        return tflite.read(path, source)
    if kind == "graph":
        return frozen_graph.read(path, source)
    (tensors, meta), digest = read_checkpoint(path), sha256_of(path)
    if torchvision.recognizes(tensors):
        return torchvision.read(tensors, source=source, sha256=digest, file_name=path.name)
    if timm.recognizes(tensors):
        return timm.read(tensors, source=source, sha256=digest)
    if mmdetection.recognizes(tensors):
        return mmdetection.read(tensors, source=source, sha256=digest, meta=meta)
    if pytorch_ssd.recognizes(tensors):
        return pytorch_ssd.read(tensors, source=source, sha256=digest)
    if lufficc_ssd.recognizes(tensors):
        return lufficc_ssd.read(tensors, source=source, sha256=digest)
    if any(name.startswith("model.backbone.") for name in tensors):
        raise UserError(f"{path} is the state of an unfinished run; when the run is finished, give its folder.")
    if any(name.startswith("backbone.layers.") for name in tensors):
        raise UserError(
            f"{path} holds the tensors of a model folder, but there is no model.json next to it; give the folder."
        )
    if hugging_face.recognizes(tensors):
        raise UserError(
            f"{path} comes from the Hugging Face Hub, where config.json describes the network; give the folder that "
            "holds both."
        )
    raise UserError(
        f"{path} holds {len(tensors)} tensors ({', '.join(list(tensors)[:3])}, ...) of an unknown network; known are "
        "MobileNetV2, ResNet-101, DeepLabv3-ResNet-101 and VGG16 of torchvision, mobilenetv1_* and mobilenetv2_* of "
        "timm, and SSD on MobileNets of mmdetection, qfgaohao/pytorch-ssd and lufficc/SSD."
    )
