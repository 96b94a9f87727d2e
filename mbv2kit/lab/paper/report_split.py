"""The report's part on the split network: plans for budgets, planned and measured memory, time against t."""

from statistics import median

import torch

from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.lab.paper import figures
from mbv2kit.lab.paper.report_numbers import ReportData
from mbv2kit.lab.paper.timing import ROUNDS, relative_times
from mbv2kit.lab.report_page import Illustration, Table
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.splitting import SplitSession
from mbv2kit.splitting.memory_probe import MemoryProbe
from mbv2kit.splitting.planner import Planner

SIZE = (224, 224)
BUDGETS = (4_000_000, 2_000_000, 1_000_000, 512_000, 400_000, 256_000)
GROUPS = range(1, 11)


def split_network(data: ReportData) -> list[str | Table | Illustration]:
    """Runs MobileNetV2 1.0 at 224 plain and split, and returns tables of memory and time."""
    spec = ModelSpec(
        backbone={"name": "mobilenet_v2"},
        heads={"classification": {"name": "classifier"}},
        class_names={"classification": tuple(map(str, range(1000)))},
        input=Preprocess(SIZE),
    )
    model = VisionModel(spec).eval().to(memory_format=torch.channels_last)
    images = torch.randint(0, 256, (1, 3, *SIZE), dtype=torch.uint8)
    planner = Planner(model, SIZE, torch.float32)
    even = {f"t = {t}": planner.evenly(t) for t in GROUPS}
    budgets = {f"budget {budget // 1000:,} kB": planner.plan(budget) for budget in BUDGETS}
    plans = even | {name: plan for name, plan in budgets.items() if plan is not None}
    times = relative_times(model, plans)
    with torch.no_grad(), MemoryProbe([images]) as probe:
        model(images)
    rows = [["plain network", "", f"{probe.peak:,}", "1.0", "", "1.00"]]
    for name, plan in plans.items():
        _, measured = SplitSession(model, plan).measure(images)
        costs = f"{probe.peak / measured:.1f}", f"{plan.recomputed:.1%}", f"{median(times[name]):.2f}"
        rows.append([name, f"{plan.peak:,}", f"{measured:,}", *costs])
    missed = [name.removeprefix("budget ") for name, plan in budgets.items() if plan is None]
    notes = [
        "Peak bytes for one image, including its own 150,528; measured during the run. With t, every block is split "
        "into t groups, where the first convolution is the expansion of the first block. A plan for a budget has the "
        "least recomputation, which is not the least time.",
        f"No plan needs fewer than {planner.smallest():,} bytes; not possible: {', '.join(missed) or 'none of these'}.",
        f"Time relative to the plain network (batch norms not folded), medians of {ROUNDS} alternating runs.",
    ]
    columns = ["", ">planned", ">measured", ">times less", ">recomputed", ">time"]
    memory = Table(columns=columns, rows=rows, title="MobileNetV2 1.0 at 224, one image", notes=notes)
    path = figures.figure_time(GROUPS, [times[name] for name in even], data.images / "split_time.png")
    image = Illustration(path, "Time of the split network relative to the plain one, from the table above.")
    return [memory, image, _eight_bits(model)]


def _eight_bits(model: VisionModel) -> Table:
    planner = Planner(model, SIZE, torch.int8)
    rows = []
    for budget in BUDGETS:
        plan = planner.plan(budget)
        cells = ["not possible", ""] if plan is None else [f"{plan.peak:,}", f"{plan.recomputed:.1%}"]
        rows.append([f"{budget // 1000:,} kB", *cells])
    note = (
        "Memory of the same network with 8-bit activations, whose sums over the groups of a split block have 32 bits; "
        f"no plan needs fewer than {planner.smallest():,} bytes."
    )
    columns = ["budget", ">planned", ">recomputed"]
    return Table(columns=columns, rows=rows, title="The same with 8-bit activations", notes=[note])
