"""Files that competitors read and that the benchmark must make: exported networks of other libraries, and images.

The networks have random weights, which do not change their speed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mbv2kit.lab.benchmark.competitor import Settings
from mbv2kit.lab.benchmark.worker import CompetitorError, SkippedError, Worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """How to make a file or folder, in its own process.

    Attributes:
        setup: ``module:function`` to call with ``path``, ``files`` and the options.
        library: Library whose interpreter runs it, as in the key ``python``.
        needs: Packages that the interpreter must have.
        options: Further arguments of the function.
        assets: Names of the assets that it reads.
    """

    setup: str
    library: str
    needs: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    assets: tuple[str, ...] = ()


_EXPORTS = "mbv2kit.lab.benchmark.competitors.exports"
_IMAGES = "mbv2kit.lab.benchmark.competitors.image_files"

_ONNX = ("torch", "torchvision", "onnx", "onnxscript")

# Numbers of images in the folders that jobs use.
COUNTS = (1, 20, 200, 5000)


def _networks(batch: int) -> dict[str, Asset]:
    """Returns MobileNetV2 1.0 at 224 in every format, with float input and a fixed batch size."""
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
    """Returns all assets by name.

    Args:
        images: Folder with JPEG files to make the folders of images from; None leaves those out.
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


class AssetStore:
    """Makes assets on demand and keeps them in a folder from run to run.

    Args:
        table: How to make each asset.
        settings: The folder, and the interpreters that make the assets.
    """

    def __init__(self, table: Mapping[str, Asset], settings: Settings) -> None:
        self._table = table
        self._settings = settings
        self._problems: dict[str, CompetitorError] = {}

    def path(self, name: str) -> Path:
        """Returns the path of an asset, which is made if it does not exist.

        Raises:
            CompetitorError: The asset cannot be made.
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
            raise SkippedError("made from images; name a folder of JPEG files with pictures=FOLDER")
        asset = self._table[name]
        files = {each: str(self.path(each)) for each in asset.assets}
        folder = self._settings.folder
        folder.mkdir(parents=True, exist_ok=True)
        # An unfinished asset must not look like a finished one.
        with TemporaryDirectory(dir=folder) as unfinished:
            options = {**asset.options, "path": str(Path(unfinished, name)), "files": files}
            with Worker(self._settings.interpreter(asset.library), asset.setup, options, asset.needs):
                pass
            for made in Path(unfinished).iterdir():
                made.rename(folder / made.name)
