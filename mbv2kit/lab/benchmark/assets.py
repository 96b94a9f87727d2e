"""The files that competitors read and that nobody ships: peers' networks as a user would export them, and images.

Weights are random: what an exported network costs does not depend on them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mbv2kit.lab.benchmark.competitor import Settings
from mbv2kit.lab.benchmark.workers import CompetitorError, SkippedError, Worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """How a file or folder is made, in a process of its own.

    Attributes:
        setup: ``module:function``; it is called with ``path``, ``options`` and ``files``.
        library: Whose interpreter it runs in.
        needs: Packages that must be importable there.
        options: For the function.
        assets: Names of those that it is made from.
    """

    setup: str
    library: str
    needs: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    assets: tuple[str, ...] = ()


_EXPORTS = "mbv2kit.lab.benchmark.competitors.exports"
_IMAGES = "mbv2kit.lab.benchmark.competitors.image_files"

_ONNX = ("torch", "torchvision", "onnx", "onnxscript")

# Lengths of the folders of images that jobs ask for.
COUNTS = (1, 20, 200, 5000)


def _networks(batch: int) -> dict[str, Asset]:
    """MobileNetV2 1.0 at 224 in every format, float input, for a batch of a fixed size."""
    onnx = f"mobilenet_v2_b{batch}.onnx"
    options = {"batch": batch}
    return {
        onnx: Asset(setup=f"{_EXPORTS}:onnx", library="torch", needs=_ONNX, options=options),
        f"mobilenet_v2_int8_b{batch}.onnx": Asset(
            setup=f"{_EXPORTS}:onnx_int8",
            library="onnxruntime",
            needs=("onnx", "onnxruntime"),
            options=options,
            assets=(onnx,),
        ),
        f"mobilenet_v2_int8_b{batch}.xml": Asset(
            setup=f"{_EXPORTS}:openvino_int8",
            library="nncf",
            needs=("nncf", "openvino"),
            options=options,
            assets=(onnx,),
        ),
        f"mobilenet_v2_b{batch}.tflite": Asset(
            setup=f"{_EXPORTS}:litert",
            library="litert_torch",
            needs=("torch", "torchvision", "litert_torch"),
            options=options,
        ),
        f"mobilenet_v2_b{batch}.pte": Asset(
            setup=f"{_EXPORTS}:executorch",
            library="executorch",
            needs=("torch", "torchvision", "executorch"),
            options=options,
        ),
    }


def asset_table(images: Path | None) -> dict[str, Asset]:
    """Lists all materials by name.

    Args:
        images: Folder that is searched for the JPEG files of which the folders of images are made; None for none.
    """
    table = {
        **_networks(1),
        **_networks(32),
        "ssdlite320.onnx": Asset(setup=f"{_EXPORTS}:ssdlite_onnx", library="torch", needs=_ONNX),
    }
    if images is not None:
        source = {"source": str(images)}
        table["hd"] = Asset(setup=f"{_IMAGES}:enlarge", library="cv2", needs=("cv2",), options=source)
        for count in COUNTS:
            table[f"plain_{count}"] = Asset(
                setup=f"{_IMAGES}:link", library="cv2", needs=(), options={"count": count, **source}
            )
            table[f"hd_{count}"] = Asset(
                setup=f"{_IMAGES}:link", library="cv2", needs=(), options={"count": count}, assets=("hd",)
            )
    return table


class Assets:
    """Makes materials when they are asked for, and keeps them in a folder from run to run.

    Args:
        table: How each is made.
        settings: Where they are kept, and the interpreters that make them.
    """

    def __init__(self, table: Mapping[str, Asset], settings: Settings) -> None:
        self._table = table
        self._settings = settings
        self._problems: dict[str, CompetitorError] = {}

    def path(self, name: str) -> Path:
        """Returns where a material is; makes it if need be.

        Raises:
            ContenderError: It cannot be made.
        """
        if name in self._problems:
            raise self._problems[name]
        path = self._settings.folder / name
        if not path.exists():
            try:
                self._make(name)
            except CompetitorError as error:
                self._problems[name] = type(error)(f"{name} could not be made: {error}")
                raise self._problems[name] from None
        return path

    def _make(self, name: str) -> None:
        if name not in self._table:
            raise SkippedError("it is made of images; name a folder of JPEG files by pictures=FOLDER")
        asset = self._table[name]
        files = {each: str(self.path(each)) for each in asset.assets}
        folder = self._settings.folder
        folder.mkdir(parents=True, exist_ok=True)
        # What is half made must not pass for whole.
        with TemporaryDirectory(dir=folder) as unfinished:
            options = {**asset.options, "path": str(Path(unfinished, name)), "files": files}
            with Worker(self._settings.interpreter(asset.library), asset.setup, options, asset.needs):
                pass
            for made in Path(unfinished).iterdir():
                made.rename(folder / made.name)
