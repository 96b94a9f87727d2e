"""Predictors whose network torch runs: as trained, folded, augmented, or within a budget of memory."""

from collections.abc import Sequence

from mbv2kit.inference.predictor import Predictor
from mbv2kit.inference.runtimes.torch import TorchSession
from mbv2kit.models.export_network import ExportNetwork
from mbv2kit.models.model_session import ModelSession
from mbv2kit.models.session import Session
from mbv2kit.models.tta import MultiScaleFlip, check_tta
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.splitting import SplitSession


def as_trained(
    model: VisionModel, tta: str = "none", scales: Sequence[float] | None = None, flip: bool = True
) -> Predictor:
    """Returns a predictor whose metrics equal those of training to the last digit: the norms stay unfolded.

    Args:
        model: In evaluation mode.
        tta: ``none`` or ``multiscale_flip``.
        scales: Scales of ``multiscale_flip``; None for those that suit the heads.
        flip: Whether ``multiscale_flip`` mirrors the input as well.

    Raises:
        UserError: The augmentation is unknown, or a head does not support it.
    """
    check_tta(tta, scales)
    return _shared(model, ModelSession(model) if tta == "none" else MultiScaleFlip(model, scales, flip))


def folded(model: VisionModel, *, compiled: bool = False) -> Predictor:
    """Returns a predictor that runs a model as fast as torch can: norms folded, and compiled if asked for."""
    network = ExportNetwork(model).eval()
    return _shared(model, TorchSession(network, network.output_names, compiled=compiled))


def split(model: VisionModel, session: SplitSession) -> Predictor:
    """Returns a predictor that runs a model within the memory of a plan."""
    return _shared(model, session)


def _shared(model: VisionModel, session: Session) -> Predictor:
    # torch can run one network for several threads at a time.
    return Predictor(model.spec, lambda _: session, nms_options=model.nms_options)
