"""MobileNetV2 as a classifier at 224, and what the machine can do at the most."""

from collections.abc import Sequence
from pathlib import Path

from mbv2kit.lab.benchmark.competitor import Calls, Case, Precision
from mbv2kit.lab.benchmark.competitors.networks import MADDS, PRODUCT_SIDE
from mbv2kit.lab.benchmark.jobs.models import OURS, Model, in_every_runtime

BASELINE = "torchvision"
BATCHES = (1, 32)
PEAK = "peak"
PUBLISHED = "mobilenet_v2_1.0_224_quant.tflite"
_SETUPS = "mbv2kit.lab.benchmark.competitors"


def cases(models: Sequence[Model], quantized: Path | None) -> list[Case]:
    """Lists the cases.

    Args:
        models: Ours.
        quantized: The file :data:`PUBLISHED` of Google; None where it is not at hand.
    """
    notes = [
        "whole: from uint8 images of the network's size to its answer, with what a user's loop has to do in between; "
        "network: from float inputs that are ready."
    ]
    if quantized is None:
        notes.append(f"Without LiteRT int8, which runs data/weights/{PUBLISHED} of the folder that shared= names.")
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
                title=f"MobileNetV2 1.0 at 224 x 224, {batch} image{'' if batch == 1 else 's'} at a time",
                baseline=(BASELINE, "network"),
                competitors=[*_peers(batch), *_by_hand(batch, quantized), *_ours(models, batch)],
                notes=notes,
            )
            for batch in BATCHES
        ),
    ]


def _peaks() -> list[Calls]:
    def product(name: str, library: str, precision: Precision, needs: tuple[str, ...], **options: str) -> Calls:
        return Calls(
            name=name,
            group="peer",
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
        product("OpenVINO float32", "openvino", "fp32", ("openvino",), numbers="f32"),
        product("OpenVINO bfloat16", "openvino", "fp16", ("openvino",), numbers="bf16"),
        product("OpenVINO int8", "openvino", "int8", ("openvino",), numbers="int8"),
    ]


def _peers(batch: int) -> list[Calls]:
    def peer(name: str, library: str, function: str, *needs: str) -> Calls:
        return Calls(
            name=name,
            group="peer",
            library=library,
            needs=("torch", *needs),
            madds=MADDS * batch,
            setup=f"{_SETUPS}.torch_models:{function}",
            options={"batch": batch},
        )

    return [
        peer(BASELINE, "torchvision", "torchvision_eager", "torchvision"),
        peer("torchvision, compiled and frozen", "torchvision", "torchvision_compiled", "torchvision"),
        peer("timm", "timm", "timm_eager", "timm"),
        peer("transformers", "transformers", "transformers_eager", "transformers"),
    ]


def _by_hand(batch: int, quantized: Path | None) -> list[Calls]:
    def by_hand(
        name: str, library: str, precision: Precision, asset: str, *needs: str, **options: str | dict[str, str]
    ) -> Calls:
        return Calls(
            name=name,
            group="by hand",
            precision=precision,
            library=library,
            needs=needs,
            assets=(asset,) if asset else (),
            madds=MADDS * batch,
            setup=f"{_SETUPS}.by_hand:{library}",
            options={"batch": batch, **options},
        )

    onnx, onnx_int8 = f"mobilenet_v2_b{batch}.onnx", f"mobilenet_v2_int8_b{batch}.onnx"
    competitors = [
        by_hand("ONNX Runtime", "onnxruntime", "fp32", onnx, "onnxruntime"),
        by_hand("OpenVINO", "openvino", "fp32", onnx, "openvino", numbers="f32"),
        by_hand("LiteRT", "litert", "fp32", f"mobilenet_v2_b{batch}.tflite", "ai_edge_litert"),
        by_hand("ExecuTorch", "executorch", "fp32", f"mobilenet_v2_b{batch}.pte", "executorch", "torch"),
        by_hand("OpenVINO bfloat16", "openvino", "fp16", onnx, "openvino", numbers="bf16"),
        by_hand("ONNX Runtime int8", "onnxruntime", "int8", onnx_int8, "onnxruntime"),
        by_hand("OpenVINO int8", "openvino", "int8", f"mobilenet_v2_int8_b{batch}.xml", "openvino", numbers="f32"),
    ]
    if quantized is not None:
        files = {"quantised": str(quantized)}
        competitors.append(by_hand("LiteRT int8", "litert", "int8", "", "ai_edge_litert", files=files))
    return competitors


def _ours(models: Sequence[Model], batch: int) -> list[Calls]:
    competitors = list(in_every_runtime(models, "classification", {"batch": batch}, batch))
    for model in models:
        for name, compiled in (("torch", False), ("torch, compiled", True)):
            competitors.append(
                Calls(
                    name=f"{model.label}{name}",
                    group="ours",
                    library="torch",
                    needs=("torch",),
                    madds=None if model.madds is None else model.madds * batch,
                    setup=f"{OURS}:in_torch",
                    options={"batch": batch, "folder": str(model.folder), "compiled": compiled},
                )
            )
    return competitors
