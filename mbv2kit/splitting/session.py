"""A session that runs a model as a memory plan says: the same outputs from a fraction of the memory."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mbv2kit.errors import UserError
from mbv2kit.heads.registry import Raw
from mbv2kit.imaging.postprocess import Outputs
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.splitting.bands import BandStep, schedule
from mbv2kit.splitting.block import SplitBlock, fold, frame
from mbv2kit.splitting.chain import find_chain, has_relu6
from mbv2kit.splitting.memory_probe import MemoryProbe
from mbv2kit.splitting.plan import MemoryPlan
from mbv2kit.structures import Input


class SplitSession:
    """Runs a model one image at a time within the memory of a plan.

    Args:
        model: In evaluation mode, on the CPU; its weights are folded and copied.
        plan: A plan of this model, in float32.

    Attributes:
        plan: The plan.
        measured: The most bytes that were alive at once during the first image; None until then.

    Raises:
        UserError: The plan is of another type than float32, or the network cannot be split.
    """

    def __init__(self, model: VisionModel, plan: MemoryPlan) -> None:
        if plan.dtype != torch.float32:
            raise UserError(f"A plan for {plan.dtype} says what a network would need; only float32 plans can be run.")
        self.plan = plan
        self.measured: int | None = None
        self._model = model
        self._chain = find_chain(model, plan.size)
        # For each segment its blocks, and what they do in each band.
        self._segments: list[tuple[list[SplitBlock], list[list[BandStep]]]] = []
        for segment in plan.segments:
            specs = self._chain.blocks[segment.first : segment.last + 1]
            bands = schedule(specs, segment.rows, segment.keep)
            steps_of_blocks = zip(*bands, strict=True)
            blocks = [
                SplitBlock(spec, count, (step.output for step in steps if step.output))
                for spec, count, steps in zip(specs, segment.groups, steps_of_blocks, strict=True)
            ]
            self._segments.append((blocks, bands))
        self._last = fold(self._chain.last[1]) if self._chain.last else None

    @torch.no_grad()
    def compute(self, images: Tensor) -> dict[str, Raw]:
        """Computes what the model computes, up to rounding.

        Args:
            images: ``(B, 3, H, W)`` uint8 of the plan's size; B images take B times the memory of the plan.

        Returns:
            For each task the raw tensors of its head.

        Raises:
            UserError: The images have another size.
        """
        size = (images.shape[2], images.shape[3])
        if size != self.plan.size:
            raise UserError(f"The plan is for {self.plan.size} pixels, got {size}; make a plan for that size.")
        maps: dict[str, Tensor] = {}
        current = images
        for blocks, bands in self._segments:
            current = self._run(blocks, bands, current, maps)
            spec = blocks[-1].spec
            if spec.read:
                maps[spec.name] = current
        if self._chain.last is not None:
            maps[self._chain.last[0]] = self._run_last(current)
        del current
        return {task: head(maps) for task, head in self._model.heads.items()}

    def measure(self, images: Tensor) -> tuple[dict[str, Raw], int]:
        """Computes what :meth:`compute` does, and the most bytes that were alive at once; see :class:`MemoryProbe`."""
        with MemoryProbe([images]) as probe:
            raw = self.compute(images)
        return raw, int(probe.peak)

    @torch.inference_mode()
    def __call__(self, images: Input) -> Outputs:
        """Computes the outputs for ``(B, H, W, 3)`` RGB inputs, one after the other."""
        outputs: list[Raw] = []
        for image in images:
            tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]
            if self.measured is None:
                raw, self.measured = self.measure(tensor)
            else:
                raw = self.compute(tensor)
            outputs.append(self._model.outputs(raw, self.plan.size))
        return {name: torch.cat([each[name] for each in outputs]).numpy() for name in outputs[0]}

    def _run(
        self, blocks: Sequence[SplitBlock], bands: Sequence[Sequence[BandStep]], source: Tensor, maps: dict[str, Tensor]
    ) -> Tensor:
        spec = blocks[-1].spec
        output = self._model.mean.new_empty(len(source), spec.out_channels, *spec.output_size)
        kept: list[Tensor | None] = [None] * len(blocks)
        for band in bands:
            self._run_band(blocks, band, source, output, kept, maps)
        return output

    def _run_band(
        self,
        blocks: Sequence[SplitBlock],
        band: Sequence[BandStep],
        source: Tensor,
        output: Tensor,
        kept: list[Tensor | None],
        maps: dict[str, Tensor],
    ) -> None:
        rows, start = source, 0
        if blocks[0].spec.first and band[0].output:
            rows = frame(blocks[0].spec, source, band[0].output, self._model.mean, self._model.std)
        for place, (block, step) in enumerate(zip(blocks, band, strict=True)):
            following, next_start = output, step.output.start
            if place + 1 < len(blocks):
                needs = band[place + 1]
                spec = blocks[place + 1].spec
                following = output.new_empty(len(output), spec.in_channels, len(needs.input), spec.columns[0].size)
                next_start = needs.input.start
                if (earlier := kept[place + 1]) is not None:
                    following[:, :, : len(needs.reused)].copy_(earlier)
                    del earlier
                    kept[place + 1] = None
                target = following[:, :, len(needs.reused) :]
            else:
                target = output[:, :, step.output.start : step.output.stop]
            if step.output:
                wide = block.run(rows, start, step.output, target)
                if wide is not None:
                    maps[f"{block.spec.name}_expansion"] = wide
            if place and step.saved:
                kept[place] = rows[:, :, step.saved.start - start : step.saved.stop - start].clone()
            rows, start = following, next_start

    def _run_last(self, map: Tensor) -> Tensor:
        assert self._chain.last is not None
        assert self._last is not None
        weight, bias = self._last
        activates = has_relu6(self._chain.last[1])
        share = -(-len(weight) // self.plan.last_groups)
        if not self._chain.pools:
            return _convolve(map, weight, bias, activates)
        # The mean over a map of one pixel is that pixel: the head cannot tell.
        pooled = map.new_empty(len(map), len(weight), 1, 1)
        for first in range(0, len(weight), share):
            group = slice(first, first + share)
            pooled[:, group] = _convolve(map, weight[group], bias[group], activates).mean(dim=(2, 3), keepdim=True)
        return pooled


def _convolve(map: Tensor, weight: Tensor, bias: Tensor, activates: bool) -> Tensor:
    output = F.conv2d(map, weight, bias)
    return F.relu6(output, inplace=True) if activates else output
