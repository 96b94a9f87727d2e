"""Changes files at random, reads them, and keeps what ends in anything but a result or a sentence.

python -m tests.fuzz images 120       two minutes of changed images
python -m tests.fuzz all 60           a minute of each kind

A child process reads many changed files in turn. It may take 2 GB more memory than at its start, and 20 seconds for a
file; a crash ends it, and the next child goes on. Finds are left in ``fuzz_finds``.
"""

import copy
import io
import json
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mbv2kit.errors import UserError
from mbv2kit.memory import ran_out_of_memory

_BYTES, _SECONDS, _AT_ONCE, _LONGEST = 2 * 10**9, 20, 200, 3000
_FINDS = Path("fuzz_finds")
_EXTREMES = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**16, 255)
_ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 3, 0.5, 1e300, 2**31, 2**63, 10**30, -(10**9), float("nan"), float("inf")),
    *("", " ", "0", "../x", "/etc/passwd", "a" * 5000, "\0", "\ud800", "\x1b[31m", "name"),
    *([], {}, [[]], [0, 1], {"a": 1}),
)  # fmt: skip

Change = Callable[[random.Random, bytes], bytes]


@dataclass(frozen=True)
class Kind:
    """Files of one kind.

    Attributes:
        seeds: Good files by name, which are written into the folder that ``read`` knows.
        read: Reads a file; raises :class:`UserError` where it is not good.
        changes: What may be done to a file.
    """

    seeds: dict[str, bytes]
    read: Callable[[Path], object]
    changes: Sequence[Change]


def change_bytes(chance: random.Random, data: bytes) -> bytes:
    """Changes, removes, doubles or inserts a few bytes, most of them near the start, where the structure is."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        end = chance.choice((64, 512, len(changed))) if changed else 0
        place = chance.randrange(max(1, min(end, len(changed))))
        length = chance.choice((1, 2, 4, 30))
        match chance.randrange(7):
            case 0:
                changed[place : place + 1] = bytes([chance.randrange(256)])
            case 1:
                changed[place : place + 1] = bytes([(changed[place] if changed else 0) ^ 1 << chance.randrange(8)])
            case 2:
                order = chance.choice("<>")
                changed[place : place + 4] = struct.pack(f"{order}I", chance.choice(_EXTREMES))
            case 3:
                del changed[place : place + length]
            case 4:
                changed[place:place] = changed[place : place + length]
            case 5:
                changed[place:place] = chance.randbytes(length)
            case 6:
                del changed[chance.randrange(max(1, len(changed))) :]
    return bytes(changed)


def change_png(chance: random.Random, data: bytes) -> bytes:
    """Changes the content of chunks and mends their checksums, so that decoders look at it."""
    chunks, place = [], 8
    while place + 12 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    if data[:4] != b"\x89PNG" or not chunks:
        return change_bytes(chance, data)
    index = chance.randrange(len(chunks))
    match chance.randrange(4):
        case 0:
            chunks.insert(index, chance.choice(chunks))
        case 1:
            del chunks[index]
        case 2 if chunks[index][0] == b"IDAT":
            try:
                pixels = zlib.decompress(chunks[index][1])
            except zlib.error:
                return change_bytes(chance, data)
            chunks[index] = (b"IDAT", zlib.compress(change_bytes(chance, pixels)))
        case _:
            chunks[index] = (chunks[index][0], change_bytes(chance, chunks[index][1]))
    parts = [struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks]
    return data[:8] + b"".join(parts)


def change_values(chance: random.Random, data: bytes) -> bytes:
    """Replaces, removes, doubles or swaps values of a JSON file."""
    content = json.loads(data)
    for _ in range(chance.choice((1, 1, 2, 3))):
        holders: list[Any] = [content]
        for holder in holders:
            inner = holder.values() if isinstance(holder, dict) else holder
            holders += [each for each in inner if isinstance(each, dict | list) and each]
        holder, other = chance.choice(holders), chance.choice(holders)
        if not holder or not other:
            continue
        key, key_of_other = (chance.choice(list(h) if isinstance(h, dict) else range(len(h))) for h in (holder, other))
        match chance.randrange(5):
            case 0:
                del holder[key]
            case 1:
                holder[key] = copy.deepcopy(other[key_of_other])
            case 2 if isinstance(holder, list):
                holder += copy.deepcopy(holder)
            case 3 if isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
                holder[key] = holder[key] * chance.choice((-1, 0.5, 2, 10**4)) + chance.choice((0, 1, 0.25))
            case _:
                holder[key] = copy.deepcopy(chance.choice(_ODD))
    return json.dumps(content).encode()


def change_tags(chance: random.Random, data: bytes) -> bytes:
    """Replaces, removes, doubles or swaps the elements and texts of an XML file, or the words of a list."""
    text = data.decode(errors="replace")
    parts = text.replace("<", "\0<").replace(">", ">\0").replace("\n", "\0\n\0").split("\0")
    for _ in range(chance.choice((1, 1, 2, 4))):
        place = chance.randrange(len(parts))
        match chance.randrange(5):
            case 0:
                del parts[place : place + chance.choice((1, 3))]
            case 1:
                parts[place] = chance.choice(parts)
            case 2:
                parts[place] = str(chance.choice(_ODD))
            case 3:
                parts[place:place] = chance.choices(parts, k=chance.choice((1, 3, 9)))
            case 4:
                parts[place] = chance.choice(("&lt;", "&#0;", "<![CDATA[", "<!DOCTYPE a>", "&amp;b;", "1e400", "nan"))
        if not parts:
            break
    return "".join(parts).encode(errors="replace")


def _pixels(height: int = 24, width: int = 32) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _images(_: Path) -> Kind:
    from mbv2kit.imaging.images import decode, decode_resized, read_head

    color = Image.fromarray(_pixels())
    exif = color.getexif()
    exif[0x0112] = 6
    forms: list[tuple[str, Image.Image, dict[str, Any]]] = [
        ("a.jpg", color, {"exif": exif}),
        ("b.jpg", color, {"progressive": True, "quality": 50}),
        ("c.jpg", color.convert("CMYK"), {}),
        ("d.jpg", color.convert("L"), {"restart_marker_blocks": 2}),
        ("a.png", color, {"exif": exif}),
        ("b.png", color.convert("P"), {"transparency": 3}),
        ("c.png", Image.fromarray(_pixels()[..., 0].astype(np.uint16) * 200), {}),
        ("d.png", color.convert("1"), {}),
        ("e.png", color.convert("RGBA"), {"save_all": True, "append_images": [color.convert("RGBA")]}),
        ("a.webp", color, {"exif": exif}),
        ("b.webp", color.convert("RGBA"), {"lossless": True}),
        ("c.webp", color, {"save_all": True, "append_images": [color.rotate(9)]}),
        ("a.gif", color, {"save_all": True, "append_images": [color.rotate(9)], "transparency": 0}),
        ("a.bmp", color, {}),
        ("b.bmp", color.convert("P"), {}),
        ("c.dib", color, {}),
        ("a.ppm", color, {}),
        ("b.pgm", color.convert("L"), {}),
        ("a.jp2", color, {}),
        ("a.avif", color, {"speed": 10}),
        ("f.tif", Image.fromarray(_pixels()[..., 0].astype(np.float32) / 255), {}),
        ("i.tif", Image.fromarray(_pixels()[..., 0].astype(np.int32)), {}),
    ]
    forms += [
        (f"{name}.tif", color, {"compression": name})
        for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "tiff_deflate")
    ]
    forms.append(("group4.tif", color.convert("1"), {"compression": "group4"}))
    seeds = {}
    for name, image, options in forms:
        image.save(file := io.BytesIO(), "TIFF" if name.endswith("tif") else _format(name), **options)
        seeds[name] = file.getvalue()

    def read(path: Path) -> None:
        with suppress(UserError):
            decode_resized(path, lambda height, width: (8, 8))
        with suppress(UserError):
            head, pixels = read_head(path), decode(path)
            # Annotations are placed by the size that the head promises.
            assert head.upright == pixels.shape[:2], f"{head} but {pixels.shape}"

    return Kind(seeds, read, (change_bytes, change_png))


def _format(name: str) -> str:
    return {"jpg": "JPEG", "ppm": "PPM", "pgm": "PPM", "jp2": "JPEG2000"}.get(suffix := name[2:], suffix.upper())


def _read_all(name: str, folder: Path, split: str) -> None:
    """Reads all images and classes of a split for each task that has boxes or masks."""
    from mbv2kit.data.census import take_census
    from mbv2kit.data.sources import create_source

    for task in ("detection", "segmentation"):
        with suppress(UserError):
            source = create_source(name, task=task, root=folder, split=split)
            for index in range(len(source)):
                source[index]
            take_census(source)


def _coco(folder: Path) -> Kind:
    from tests.data.test_coco_mutations import CONTENT

    for number in (1, 2):
        (folder / "val").mkdir(exist_ok=True)
        Image.new("RGB", (16, 12)).save(folder / f"val/{number}.png")

    def read(path: Path) -> None:
        path.replace(_made(folder / "annotations") / "instances_val.json")
        _read_all("coco", folder, "val")

    return Kind({"a.json": json.dumps(CONTENT).encode()}, read, (change_values, change_values, change_bytes))


def _voc(folder: Path) -> Kind:
    from tests.data.voc_trees import make_tree, xml

    size = "<size><width>40</width><height>30</height><depth>3</depth></size><segmented>1</segmented>"
    text = xml(("cat", (3, 4, 20, 21)), ("dog", (1, 1, 40, 30)), size=size)
    make_tree(folder, {"x.jpg": text, "y.png": text}, "x", "y -1")
    mask = Image.fromarray(np.kron(np.arange(12, dtype=np.uint8).reshape(3, 4) % 3, np.ones((10, 10), np.uint8)))
    mask.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    places = {"x.xml": "Annotations", "train.txt": "ImageSets/Main", "list.txt": "ImageSets/Segmentation"}
    places |= {"x.png": "SegmentationClass", "classes.txt": "."}
    (folder / "classes.txt").write_text("background\ncat\ndog\n")
    for name in ("x", "y"):
        mask.save(_made(folder / "SegmentationClass") / f"{name}.png")
    (_made(folder / "ImageSets/Segmentation") / "train.txt").write_text("x\ny\n")
    mask.save(file := io.BytesIO(), "PNG")
    seeds = {
        "x.xml": text.encode(),
        "train.txt": b"x\ny -1\n",
        "list.txt": b"x\ny\n",
        "x.png": file.getvalue(),
        "classes.txt": b"background\ncat\ndog\n",
    }

    def read(path: Path) -> None:
        name = path.name
        place = folder / places[name] / ("train.txt" if name == "list.txt" else name)
        kept = place.read_bytes()
        path.replace(place)
        try:
            _read_all("voc", folder, "train")
        finally:
            place.write_bytes(kept)

    return Kind(seeds, read, (change_tags, change_tags, change_png, change_bytes))


def _exports(format: str) -> Callable[[Path], Kind]:
    """Networks that a runtime opens and runs."""

    def make(folder: Path) -> Kind:
        from mbv2kit.exporting.files import write
        from mbv2kit.inference.runtimes import open_session
        from mbv2kit.models.export_network import ExportNetwork
        from mbv2kit.models.exports import Export
        from tests.exporting.models import small_model

        runtimes: tuple[str, ...] = {"onnx": ("onnxruntime", "openvino"), "openvino": ("openvino",)}.get(
            format, (format,)
        )
        seeds, exports = {}, dict[str, Export]()
        if format == "litert":
            from tests.inference.runtimes.test_litert import EXPORT, write_network

            write_network(folder / "seed.tflite")
            seeds, exports = {"model.tflite": (folder / "seed.tflite").read_bytes()}, {"model.tflite": EXPORT}
        else:
            for task in ("classification", "detection", "segmentation"):
                network = ExportNetwork(small_model(task, side=32)).eval()
                export = write(network, folder, format, "fp32", batch=1)  # type: ignore[arg-type]
                suffixes = (".xml", ".bin") if format == "openvino" else (".onnx",)
                for suffix in suffixes:
                    name = f"{task}{suffix}"
                    (folder / export.file).with_suffix(suffix).rename(folder / name)
                    seeds[name] = (folder / name).read_bytes()
                    exports[name] = replace(export, file=f"{task}{suffixes[0]}")

        def read(path: Path) -> None:
            export = exports[path.name]
            kept, place = seeds[path.name], folder / path.name
            path.replace(place)
            try:
                for runtime in runtimes:
                    try:
                        session = open_session(runtime, folder, export, 1)  # type: ignore[arg-type]
                        session(np.zeros((export.batch or 1, *export.size, 3), np.uint8))
                    except UserError:
                        pass
            finally:
                place.write_bytes(kept)

        return Kind(seeds, read, _EXPORT_CHANGES[format])

    return make


def change_onnx(chance: random.Random, data: bytes) -> bytes:
    """Changes operations, attributes, inputs, constants and shapes of an ONNX file."""
    import onnx

    model = onnx.ModelProto.FromString(data)
    graph = model.graph
    small = [tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT64]
    for _ in range(chance.choice((1, 1, 2, 4))):
        node = chance.choice(graph.node)
        other = chance.choice(graph.node)
        match chance.randrange(8):
            case 0 if node.attribute:
                attribute = chance.choice(node.attribute)
                attribute.i = chance.choice((-1, 0, 1, 2, 2**31, 2**62, 2**16))
                if attribute.ints:
                    attribute.ints[chance.randrange(len(attribute.ints))] = chance.choice((-1, 0, 1, 7, 2**20, 2**40))
            case 1:
                node.op_type = chance.choice(
                    (other.op_type, "Tile", "Expand", "ConstantOfShape", "Resize", "Pad", "Range")
                )
            case 2 if node.input and other.output:
                node.input[chance.randrange(len(node.input))] = other.output[0]
            case 3:
                graph.node.remove(node)
            case 4:
                tensor = chance.choice(graph.initializer)
                if tensor.dims:
                    tensor.dims[chance.randrange(len(tensor.dims))] = chance.choice((-1, 0, 1, 7, 2**20, 2**40))
            case 5 if small:
                tensor = chance.choice(small)
                values = onnx.numpy_helper.to_array(tensor).copy().reshape(-1)
                if values.size:
                    values[chance.randrange(values.size)] = chance.choice((-1, 0, 2, 1000, 2**20, 2**40))
                    tensor.raw_data = values.tobytes()
            case 6:
                tensor = chance.choice(graph.initializer)
                tensor.data_type = chance.choice(range(17))
            case 7:
                shape = chance.choice([*graph.input, *graph.output]).type.tensor_type.shape
                if shape.dim:
                    shape.dim[chance.randrange(len(shape.dim))].dim_value = chance.choice((-1, 0, 1, 9, 2**20, 2**40))
    return bytes(model.SerializeToString())


_EXPORT_CHANGES: dict[str, Sequence[Change]] = {
    "onnx": (change_onnx, change_onnx, change_bytes),
    "openvino": (change_tags, change_tags, change_bytes),
    "litert": (change_bytes,),
}


def _weights(folder: Path) -> Kind:
    import torch
    from safetensors.torch import save
    from torchvision.models import mobilenet_v2

    from mbv2kit.weights.open import read_weights
    from tests.exporting.models import small_model
    from tests.weights.graphdef_writer import write_classifier
    from tests.weights.tflite_detectors import write_detector

    torch.manual_seed(0)
    state = mobilenet_v2(num_classes=1000, width_mult=0.35).state_dict()
    torch.save(state, new := io.BytesIO())
    torch.save({"state_dict": state, "epoch": 3}, old := io.BytesIO(), _use_new_zipfile_serialization=False)
    seeds = {
        "a.pth": new.getvalue(),
        "b.pth": old.getvalue(),
        "a.safetensors": save(state),
        "a.tflite": write_detector(small_model("detection"), 64),
        "a.pb": write_classifier(small_model("classification", padding="tf_same"), 64),
    }
    return Kind(seeds, lambda path: read_weights(str(path)), (change_bytes,))


def _checkpoint(folder: Path) -> Kind:
    import torch

    from mbv2kit.training.checkpoints import read_checkpoint
    from tests.exporting.models import small_model

    state = small_model("classification").state_dict()
    parts: dict[str, Any] = {
        "state_dict": state,
        "optimizer_states": [{"state": {}, "param_groups": []}],
        "lr_schedulers": [],
        "loops": {},
        "callbacks": {},
        "epoch": 1,
        "global_step": 8,
        "DataModule": {"epoch": 1, "start": 0},
        "epoch_pictures": 4,
    }
    torch.save(parts, file := io.BytesIO())
    return Kind({"last.ckpt": file.getvalue()}, read_checkpoint, (change_bytes,))


def _model_json(folder: Path) -> Kind:
    from mbv2kit.models.folder import ModelFolder
    from mbv2kit.models.vision_model import VisionModel
    from tests.exporting.models import HEADS, saved, small_model

    seeds = {}
    for task in HEADS:
        saved(small_model(task), folder / task)
        seeds[f"{task}.json"] = (folder / task / "model.json").read_bytes()

    def read(path: Path) -> None:
        place = folder / path.stem / "model.json"
        path.replace(place)
        try:
            ModelFolder(place.parent).read_exports()
            VisionModel.load(place.parent)
        finally:
            place.write_bytes(seeds[path.name])

    return Kind(seeds, read, (change_values, change_values, change_bytes))


def _config(folder: Path) -> Kind:
    import yaml

    from mbv2kit.cli.config import compose_config
    from mbv2kit.models.run_folder import RunFolder
    from tests.conftest import ROOT

    del compose_config, ROOT
    values = {"task": {"references": {"AP": 0.3}}, "dataset": {"name": "coco", "root": "x"}, "loader": {"workers": 1}}

    def read(path: Path) -> None:
        run = RunFolder(folder / "run")
        path.replace(_made(run.path) / "config.yaml")
        for reader in (run.read_config, lambda: run.references, lambda: run.dataset("detection"), lambda: run.finished):
            with suppress(UserError):
                reader()

    return Kind({"config.yaml": yaml.safe_dump(values).encode()}, read, (change_tags, change_bytes))


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


KINDS: dict[str, Callable[[Path], Kind]] = {
    "images": _images,
    "coco": _coco,
    "voc": _voc,
    "onnx": _exports("onnx"),
    "openvino": _exports("openvino"),
    "litert": _exports("litert"),
    "weights": _weights,
    "checkpoint": _checkpoint,
    "model_json": _model_json,
    "config": _config,
}


def changed(kind: Kind, seed: int) -> tuple[str, bytes]:
    """Returns the name and content of the changed file of a number."""
    chance = random.Random(seed)
    name = chance.choice(sorted(kind.seeds))
    data = kind.seeds[name]
    for change in [chance.choice(kind.changes)]:
        try:
            data = change(chance, data)
        except Exception:  # the file no longer has the structure that is changed
            data = change_bytes(chance, data)
    return name, data


def _read_many(kind: Kind, start: int, folder: Path, progress: Path) -> None:
    """Reads changed files in this process, which it ends; the number of the file that it reads is in ``progress``."""
    taken = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (taken + _BYTES, taken + _BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    found: list[str] = []
    for seed in range(start, start + _AT_ONCE):
        name, data = changed(kind, seed)
        progress.write_text(f"{seed} {name}")
        place = _made(folder / "changed") / name
        place.write_bytes(data)
        signal.alarm(_SECONDS)
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                kind.read(place)
        except UserError as error:
            problem = (
                "out of memory" if ran_out_of_memory(error) else "a long message" if len(str(error)) > 3000 else ""
            )
            if problem:
                found.append(_keep(kind, seed, f"{problem}: {str(error)[:300]}"))
        except Exception:
            found.append(_keep(kind, seed, traceback.format_exc()))
        signal.alarm(0)
    progress.write_text("done " + " ".join(found))
    os._exit(0)


def _keep(kind: Kind, seed: int, why: str) -> str:
    name, data = changed(kind, seed)
    path = _made(_FINDS) / f"{seed}_{name}"
    path.write_bytes(data)
    path.with_name(f"{path.name}.txt").write_text(why, errors="replace")
    return path.name


def fuzz(name: str, seconds: float, first: int = 0) -> Counter[str]:
    """Reads changed files of a kind for some seconds; returns how many were read, and the finds by their last line."""
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        kind = KINDS[name](folder)
        for file, data in kind.seeds.items():
            (_made(folder / "changed") / file).write_bytes(data)
            kind.read(folder / "changed" / file)
        start, end = first, time.monotonic() + seconds
        while time.monotonic() < end:
            progress = folder / "progress"
            child = os.fork()
            if child == 0:
                _read_many(kind, start, folder, progress)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            words = progress.read_text().split()
            if words[0] == "done":
                counts["read"] += _AT_ONCE
                start += _AT_ONCE
                for find in words[1:]:
                    counts[(_FINDS / f"{find}.txt").read_text().strip().splitlines()[-1][:200]] += 1
            else:
                seed = int(words[0])
                counts["read"] += seed - start + 1
                why = "too slow" if status == -signal.SIGALRM else f"ends with {status}"
                counts[f"{why}: {_keep(kind, seed, why)}"] += 1
                start = seed + 1
    return counts


if __name__ == "__main__":
    for each in KINDS if sys.argv[1] == "all" else sys.argv[1].split(","):
        counted = fuzz(each, float(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
        print(each, json.dumps(counted, indent=1), flush=True)
