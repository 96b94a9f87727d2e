"""Makes a model folder of weights that others published, to train from, evaluate, use or publish.

python tools/convert.py source=mobilenet_v2_1.0_224_quant.tflite output=models/mobilenet_v2 licence=apache-2.0
python tools/convert.py source=torchvision:mobilenet_v2 output=models/torchvision
python tools/convert.py source=timm:mobilenetv2_120d output=models/timm
python tools/convert.py source=hub:google/deeplabv3_mobilenet_v2_1.0_513 output=models/deeplab
python tools/convert.py source=my_network.pth output=models/mine class_names=labels.txt
"""

from omegaconf import DictConfig

from mbv2kit.cli.config import run_tool


def job(config: DictConfig) -> None:
    """Converts; what takes seconds to import is imported once the command line is known to be right."""
    from mbv2kit.weights.convert import convert

    convert(config.source, config.output, license=config.licence, class_names=config.class_names)


if __name__ == "__main__":
    run_tool(__file__, "convert", job)
