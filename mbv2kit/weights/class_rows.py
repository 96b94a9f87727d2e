"""Which rows of a head's last layers belong to which class, so that they can follow the names of the classes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mbv2kit.data.names import are_numbered, same_but_for_case
from mbv2kit.errors import UserError
from mbv2kit.heads import Head, create_head
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.weights.partial_loading import Renamed, other_shape


def rows_by_name(
    model: VisionModel, their_classes: Mapping[str, Sequence[str]], tensors: Mapping[str, Tensor]
) -> dict[str, Renamed]:
    """Finds the tensors whose rows belong to classes, where two models have other classes or another order.

    The row of a class comes from its namesake, or else from the one class that is only written in another way; a class
    without one, or with several, gets a row of zeros and keeps its fresh bias. Rows never go by position, and classes
    that the weights only number have no namesakes.

    Args:
        model: The model to load into, with fresh weights.
        their_classes: Names of the weights' classes, by head.
        tensors: The weights, by the names of the model's tensors.

    Returns:
        What to load in place of those tensors, by their names in the model.
    """
    found: dict[str, Renamed] = {}
    for place, own in model.class_names.items():
        head, names = model.heads[place], tuple(own)
        theirs = tuple(their_classes.get(place, names))
        if names == theirs:
            continue
        sources = None if are_numbered(theirs) else _namesakes(names, theirs)
        for name, groups in _class_tensors(model, head, model.spec.heads[place], len(names)).items():
            fresh, tensor = head.state_dict()[name], tensors.get(f"heads.{place}.{name}")
            if tensor is not None:
                found[f"heads.{place}.{name}"] = _renamed(fresh, tensor, groups, sources, len(names), len(theirs))
    return found


def _namesakes(names: Sequence[str], theirs: Sequence[str]) -> dict[int, int]:
    """Returns the place of each name in another list: of the same name, or else of the only one that looks like it.

    A name that the other list has several times, such as ``crane`` of ImageNet, has no place.
    """
    found = {index: theirs.index(name) for index, name in enumerate(names) if theirs.count(name) == 1}
    left = {index: same_but_for_case(name) for index, name in enumerate(names) if index not in found}
    free = {place: same_but_for_case(name) for place, name in enumerate(theirs) if place not in found.values()}
    for index, form in left.items():
        places = [place for place, other in free.items() if other == form]
        if len(places) == 1 and list(left.values()).count(form) == 1:
            found[index] = places[0]
    return found


def _class_tensors(model: VisionModel, head: Head, options: Mapping[str, Any], count: int) -> dict[str, int]:
    """Returns the number of groups of rows, such as anchors, of each tensor that has more rows with more classes."""
    name = options["name"]
    others = {key: value for key, value in options.items() if key != "name"}
    with torch.device("meta"):
        try:
            larger = create_head(name, model.backbone.feature_info, count + 1, **others).state_dict()
        except UserError:
            # A list for each class, such as their weights, does not fit another number of them.
            lists = [key for key, value in others.items() if isinstance(value, Sequence) and len(value) == count]
            others = {key: value for key, value in others.items() if key not in lists}
            larger = create_head(name, model.backbone.feature_info, count + 1, **others).state_dict()
    more = {name: larger[name].shape[0] - tensor.shape[0] for name, tensor in head.state_dict().items() if tensor.ndim}
    return {name: rows for name, rows in more.items() if rows > 0}


def _renamed(
    fresh: Tensor, tensor: Tensor, groups: int, sources: Mapping[int, int] | None, count: int, their_count: int
) -> Renamed:
    """Moves rows to the places of their classes, which are the last of each group."""
    ours = fresh.clone().reshape(groups, -1, *fresh.shape[1:])
    # Rows of a group that are of no class: a background, or a box and its objectness.
    extra = ours.shape[1] - count
    if tensor.shape[1:] != fresh.shape[1:]:
        return Renamed(None, other_shape(tensor, fresh))
    if tensor.shape[0] != groups * (extra + their_count):
        return Renamed(
            None,
            f"{len(tensor)} rows for {their_count} classes in the weights, {len(fresh)} for {count} here; stays fresh",
        )
    if sources is None:
        return Renamed(None, "class_names=FILE must name the classes of the weights, which number them; stays fresh")
    if not sources:
        return Renamed(None, "other classes in the weights; stays fresh")
    theirs = tensor.reshape(groups, -1, *tensor.shape[1:])
    if fresh.ndim > 1:
        # Random rows meet features that were trained: their logits are large, and they find objects everywhere.
        ours.zero_()
    ours[:, :extra] = theirs[:, :extra]
    for place, source in sources.items():
        ours[:, extra + place] = theirs[:, extra + source]
    rest = "" if len(sources) == count else "; the others stay fresh"
    return Renamed(ours.flatten(0, 1), f"loaded: {len(sources)} of {count} classes, by their names{rest}")
