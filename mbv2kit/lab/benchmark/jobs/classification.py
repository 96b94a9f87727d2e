"""Classification by MobileNetV2 at 224, and the peak rate of the machine."""

from collections.abc import Sequence
from pathlib import Path

from mbv2kit.lab.benchmark.competitor import Case, FunctionCompetitor, Precision
from mbv2kit.lab.benchmark.competitors.constants import MADDS, PRODUCT_SIDE
from mbv2kit.lab.benchmark.jobs.models import MODELS, Model, in_every_runtime

BASELINE = "torchvision"
BATCHES = (1, 32)
PEAK = "peak"
PUBLISHED = "mobilenet_v2_1.0_224_quant.tflite"
_SETUPS = "mbv2kit.lab.benchmark.competitors"


def cases(models: Sequence[Model], quantized: Path | None) -> list[Case]:
    """Returns the cases.

    Args:
        models: Models of mbv2kit.
        quantized: Google's file :data:`PUBLISHED`; None if there is none.
    """
    notes = [
        "whole: from uint8 images of the network's size to its outputs, including the preprocessing that a user would "
        "write; network: from preprocessed float inputs.",
        "Libraries and runtimes: MobileNetV2 1.0 at 224 x 224.",
        *(model.note for model in models),
    ]
    if quantized is None:
        notes.append(f"Without LiteRT int8, which needs data/weights/{PUBLISHED} in the folder shared=.")
    return [
        Case(
            job="classification",
            name=PEAK,
            title=f"Matrix products, {PRODUCT_SIDE} x {PRODUCT_SIDE}",
            baseline=("torch float32", "whole"),
            competitors=_peaks(),
        ),
        *(
            Case(
                job="classification",
                name=f"batch {batch}",
                title=f"Classification, {batch} image{'' if batch == 1 else 's'} at a time",
                baseline=(BASELINE, "network"),
                competitors=[*_libraries(batch), *_runtimes(batch, quantized), *_mbv2kit(models, batch)],
                notes=notes,
            )
            for batch in BATCHES
        ),
    ]


def _peaks() -> list[FunctionCompetitor]:
    def product(
        name: str, library: str, precision: Precision, needs: tuple[str, ...], **options: str
    ) -> FunctionCompetitor:
        return FunctionCompetitor(
            name=name,
            group="library",
            precision=precision,
            library=library,
            needs=needs,
            madds=PRODUCT_SIDE**3,
            setup=f"{_SETUPS}.peaks:{library}",
            options=options,
        )

    return [
        product("numpy float32", "numpy", "fp32", ("numpy",)),
        product("torch float32", "torch", "fp32", ("torch",), dtype="float32"),
        product("torch bfloat16", "torch", "fp16", ("torch",), dtype="bfloat16"),
        product("torch int8", "torch", "int8", ("torch",), dtype="int8"),
        product("ONNX Runtime float32", "onnxruntime", "fp32", ("onnx", "onnxruntime"), dtype="float32"),
        product("ONNX Runtime int8", "onnxruntime", "int8", ("onnx", "onnxruntime"), dtype="int8"),
        product("OpenVINO float32", "openvino", "fp32", ("openvino",), dtype="f32"),
        product("OpenVINO bfloat16", "openvino", "fp16", ("openvino",), dtype="bf16"),
        product("OpenVINO int8", "openvino", "int8", ("openvino",), dtype="int8"),
    ]


def _libraries(batch: int) -> list[FunctionCompetitor]:
    def library_model(name: str, library: str, function: str, *needs: str) -> FunctionCompetitor:
        return FunctionCompetitor(
            name=name,
            group="library",
            library=library,
            needs=("torch", *needs),
            madds=MADDS * batch,
            setup=f"{_SETUPS}.torch_models:{function}",
            options={"batch": batch},
        )

    return [
        library_model(BASELINE, "torchvision", "torchvision_eager", "torchvision"),
        library_model("torchvision, compiled and frozen", "torchvision", "torchvision_compiled", "torchvision"),
        library_model("timm", "timm", "timm_eager", "timm"),
        library_model("transformers", "transformers", "transformers_eager", "transformers"),
    ]


def _runtimes(batch: int, quantized: Path | None) -> list[FunctionCompetitor]:
    def runtime(
        name: str, library: str, precision: Precision, asset: str, *needs: str, **options: str | dict[str, str]
    ) -> FunctionCompetitor:
        return FunctionCompetitor(
            name=name,
            group="runtime",
            precision=precision,
            library=library,
            needs=needs,
            assets=(asset,) if asset else (),
            madds=MADDS * batch,
            setup=f"{_SETUPS}.runtimes:{library}",
            options={"batch": batch, **options},
        )

    onnx, onnx_int8 = f"mobilenet_v2_b{batch}.onnx", f"mobilenet_v2_int8_b{batch}.onnx"
    competitors = [
        runtime("ONNX Runtime", "onnxruntime", "fp32", onnx, "onnxruntime"),
        runtime("OpenVINO", "openvino", "fp32", onnx, "openvino", inference_precision="f32"),
        runtime("LiteRT", "litert", "fp32", f"mobilenet_v2_b{batch}.tflite", "ai_edge_litert"),
        runtime("ExecuTorch", "executorch", "fp32", f"mobilenet_v2_b{batch}.pte", "executorch", "torch"),
        runtime("OpenVINO bfloat16", "openvino", "fp16", onnx, "openvino", inference_precision="bf16"),
        runtime("ONNX Runtime int8", "onnxruntime", "int8", onnx_int8, "onnxruntime"),
        runtime(
            "OpenVINO int8",
            "openvino",
            "int8",
            f"mobilenet_v2_int8_b{batch}.xml",
            "openvino",
            inference_precision="f32",
        ),
    ]
    if quantized is not None:
        files = {"quantized": str(quantized)}
        competitors.append(runtime("LiteRT int8", "litert", "int8", "", "ai_edge_litert", files=files))
    return competitors


def _mbv2kit(models: Sequence[Model], batch: int) -> list[FunctionCompetitor]:
    competitors = list(in_every_runtime(models, "classification", {"batch": batch}, batch))
    for model in models:
        for name, compiled in (("torch", False), ("torch, compiled", True)):
            competitors.append(
                FunctionCompetitor(
                    name=f"{model.label}{name}",
                    group="mbv2kit",
                    library="torch",
                    needs=("torch",),
                    madds=None if model.madds is None else model.madds * batch,
                    setup=f"{MODELS}:in_torch",
                    options={"batch": batch, "folder": str(model.folder), "compiled": compiled},
                )
            )
    return competitors
