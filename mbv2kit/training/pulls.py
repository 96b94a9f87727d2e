"""How the heads pull at what they share: the gradient of each head's loss, and the angles between them."""

from collections.abc import Mapping
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def measure_pulls(losses: Mapping[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """Compares the gradients of several losses on the last layer of the backbone that all of them depend on.

    Args:
        losses: The weighted loss of each head, scalars whose graph is kept.
        backbone: The layers that the heads share.

    Returns:
        ``pull/norm/HEAD``, the norm of each gradient, and ``pull/cosine/HEAD/HEAD`` in -1..1 for each pair: above 0 two
        heads help each other, below 0 one undoes what the other learns; scalars. Nothing where no layer is shared.
    """
    weights = [parameter for parameter in backbone.parameters() if parameter.requires_grad and parameter.ndim > 1]
    if len(losses) < 2 or not weights:
        return {}
    gradients = {
        head: torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True) for head, loss in losses.items()
    }
    shared = [
        place for place in range(len(weights)) if all(gradient[place] is not None for gradient in gradients.values())
    ]
    if not shared:
        return {}
    last = {head: gradient[shared[-1]].flatten() for head, gradient in gradients.items()}
    pulls = {f"pull/norm/{head}": gradient.norm() for head, gradient in last.items()}
    for one, other in combinations(last, 2):
        pulls[f"pull/cosine/{one}/{other}"] = F.cosine_similarity(last[one], last[other], dim=0)
    return pulls
