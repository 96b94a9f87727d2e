import pytest
import torch
from torch import nn

from mbv2kit.errors import UserError
from mbv2kit.training.finetune import FineTuning
from tests.training.test_task import make_task, training_batch


def trained(finetuning: FineTuning) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The state of a classifier before and after one step."""
    task = make_task("classification", finetuning=finetuning)
    with torch.no_grad():
        # Blocks whose shortcut is all that counts would get no gradient within.
        for part in task.model.modules():
            if isinstance(part, nn.BatchNorm2d):
                nn.init.ones_(part.weight)
    before = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    batch = training_batch("classification")
    task.on_train_batch_start(batch, 0)
    loss = task.training_step(batch, 0)
    loss.backward()  # type: ignore[no-untyped-call]
    task._optimizer.step()
    return before, task.model.state_dict()


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_without_a_wish_everything_is_trained() -> None:
    before, after = trained(FineTuning())
    assert changed(before, after) == set(before)


def test_frozen_layers_keep_weights_and_statistics() -> None:
    before, after = trained(FineTuning(frozen_layers="layer_7"))
    still = {name for name in before if name.startswith(tuple(f"backbone.layers.layer_{k}." for k in range(1, 8)))}
    assert len(still) > 50
    assert changed(before, after) == set(before) - still


def test_frozen_norms_keep_their_statistics_and_learn_scale_and_shift() -> None:
    before, after = trained(FineTuning(frozen_norms=True))
    still = {name for name in before if name.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    assert changed(before, after) == set(before) - still


def test_a_backbone_without_a_rate_stays() -> None:
    before, after = trained(FineTuning(backbone_lr=0.0))
    moved = {name for name in changed(before, after) if not name.endswith(("mean", "var", "tracked"))}
    assert moved == {"heads.classification.linear.weight", "heads.classification.linear.bias"}


def test_a_layer_that_is_not_there_is_a_sentence() -> None:
    with pytest.raises(UserError, match=r"The backbone has no layer 'layer_20'\. Did you mean"):
        make_task("classification", finetuning=FineTuning(frozen_layers="layer_20"))
