"""The report on the split network, run here: plans for budgets, planned beside measured memory, time against t."""

from statistics import median

import torch

from mbv2kit.analysis import figures
from mbv2kit.analysis.report_numbers import Material
from mbv2kit.analysis.report_page import Picture, Table
from mbv2kit.analysis.timing import relative_times, times_against_groups
from mbv2kit.errors import UserError
from mbv2kit.images import InputRule
from mbv2kit.model import ModelSpec, VisionModel
from mbv2kit.splitting import MemoryPlan, SplitModel, plan_evenly, plan_memory, smallest_peak
from mbv2kit.splitting.live import LiveBytes

SIZE = (224, 224)
BUDGETS = (4_000_000, 2_000_000, 1_000_000, 512_000, 400_000, 256_000)
GROUPS = (1, 2, 3, 4, 5, 10)
TIMED = tuple(range(1, 11))
ROUNDS = 9


def split_network(material: Material) -> list[str | Table | Picture]:
    """Runs MobileNetV2 1.0 at 224 for one picture, plain and split, and says what memory and time that took."""
    classes = tuple(map(str, range(1000)))
    spec = ModelSpec(
        backbone={"name": "mobilenet_v2"},
        heads={"classification": {"name": "classifier"}},
        class_names={"classification": classes},
        input=InputRule(SIZE),
    )
    model = VisionModel(spec).eval()
    images = torch.randint(0, 256, (1, 3, *SIZE), dtype=torch.uint8)
    even = {f"t = {t}": plan_evenly(model, SIZE, t) for t in GROUPS}
    budgets = {f"{budget // 1000:,} kB": _plan(model, budget, torch.float32) for budget in BUDGETS}
    within = {name: plan for name, plan in budgets.items() if plan is not None}
    times = relative_times(model.to(memory_format=torch.channels_last), even | within, ROUNDS)
    with torch.no_grad(), LiveBytes([images]) as live:
        model(images)
    rows = [["the plain network", "", f"{live.peak:,}", "1.0", "", "1.00"]]
    for name, plan in (even | within).items():
        measured = SplitModel(model, plan).measure(images)
        lead = name if name in even else f"budget {name}"
        times_less = f"{live.peak / measured:.1f}"
        rows.append(
            [
                lead,
                f"{plan.peak:,}",
                f"{measured:,}",
                times_less,
                f"{plan.recomputed:.1%}",
                f"{median(times[name]):.2f}",
            ]
        )
    least = smallest_peak(model, SIZE)
    missed = [name for name, plan in budgets.items() if plan is None]
    notes = [
        "Bytes of 32-bit floats alive at once, the picture of 150,528 bytes among them; the measured ones were counted "
        "while it ran. t splits every block into t groups, the first convolution being the expansion of the first "
        "block. A budget is kept at the least recomputation, not in the least time.",
        f"No plan needs fewer than {least:,} bytes; not possible: {', '.join(missed) or 'none of these'}.",
        f"Time over that of the plain network (batch norms not folded), medians of {ROUNDS} runs by turns.",
    ]
    columns = ["", ">planned", ">measured", ">times less", ">computed again", ">time"]
    memory = Table(columns=columns, rows=rows, title="MobileNetV2 1.0 at 224, one picture", notes=notes)
    against = times_against_groups(model, SIZE, TIMED, ROUNDS)
    path = figures.figure_time(list(against), list(against.values()), material.images / "split_time.png")
    picture = Picture(path, "Time of the split network over that of the plain one, measured as this was written.")
    return [memory, _eight_bits(model), picture]


def _eight_bits(model: VisionModel) -> Table:
    rows = []
    for budget in BUDGETS:
        plan = _plan(model, budget, torch.int8)
        cells = ["cannot be kept", ""] if plan is None else [f"{plan.peak:,}", f"{plan.recomputed:.1%}"]
        rows.append([f"{budget // 1000:,} kB", *cells])
    note = (
        "What the same network would need with activations of 8 bits, where the sums over the groups of a split block "
        f"have 32; no plan needs fewer than {smallest_peak(model, SIZE, torch.int8):,} bytes."
    )
    columns = ["budget", ">planned", ">computed again"]
    return Table(columns=columns, rows=rows, title="The same with activations of 8 bits", notes=[note])


def _plan(model: VisionModel, budget: int, dtype: torch.dtype) -> MemoryPlan | None:
    try:
        return plan_memory(model, SIZE, budget, dtype)
    except UserError:
        return None
