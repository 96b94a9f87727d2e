"""What of a training config the weights decide that a run starts from."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from mbv2kit.backbones import BACKBONES
from mbv2kit.errors import UserError
from mbv2kit.heads.registry import HEADS
from mbv2kit.models.spec import ModelSpec
from mbv2kit.structures import TASKS
from mbv2kit.training.checks import heads_of, place_of

_log = logging.getLogger(__name__)

_NORMALISATION: Mapping[str, Any] = {field.name: field.default for field in fields(ModelSpec)}


def adopt(config: DictConfig, spec: ModelSpec, weights: str) -> DictConfig:
    """Returns the config with all that belongs to the weights: network, padding, epsilon and normalization.

    The weights win over keys at their default. So do they in the head, if they have one of its kind for the task;
    another value there leaves parts of it fresh, except for what decides how all of it computes.

    Args:
        config: The config of a training run.
        spec: The model that the weights belong to.
        weights: The user's name for them.

    Raises:
        UserError: A key has a value of its own that does not fit the weights.
    """
    trained = config.finetune.get("train_only")
    if trained is not None:
        kept = [head for head in heads_of(config) if head not in trained]
        config = adopt_whole(config, spec, weights, kept, "finetune.train_only keeps heads that it was trained with")
    config = config.copy()
    theirs = dict(spec.backbone)
    name = config.backbone.name
    if name != theirs["name"]:
        raise UserError(
            f"weights={weights} are of {theirs['name']}, but backbone is {name}; set backbone={theirs['name']}."
        )
    free, defaults = BACKBONES.get_class(name).free_options, BACKBONES.options(name)
    wanted = {f"backbone.{key}": (theirs.get(key, value), value) for key, value in defaults.items() if key not in free}
    for key in ("mean", "std"):
        wanted[f"normalisation.{key}"] = (getattr(spec, key), _NORMALISATION[key])
    adopted: list[str] = []
    for key, values in wanted.items():
        found, value, default = map(_listed, (OmegaConf.select(config, key), *values))
        if found == value:
            continue
        if found != default:
            raise _contradiction(key, found, value, weights)
        OmegaConf.update(config, key, value)
        adopted.append(f"{key}={value}")
    for head in heads_of(config):
        adopted += _adopt_head(config, spec, weights, head, place_of(config, head))
    if adopted:
        _log.info("the weights set %s", ", ".join(adopted))
    return config


def _adopt_head(config: DictConfig, spec: ModelSpec, weights: str, name: str, place: str) -> list[str]:
    """Sets the options of the head at ``place`` that its weights decide, and returns them as ``key=value``."""
    theirs, ours = spec.heads.get(name), OmegaConf.select(config, place)
    if theirs is None:
        return []
    kind = ours.name
    if kind != theirs["name"]:
        _log.info(
            "weights=%s predict by %s=%s, and this run by %s; with %s=%s it would start from their predictions too",
            weights,
            place,
            theirs["name"],
            kind,
            place,
            theirs["name"],
        )
        return []
    adopted, head = [], HEADS.get_class(kind)
    for key, default in HEADS.options(kind).items():
        found, value, usual = map(_listed, (ours[key], theirs.get(key, default), default))
        if found not in (value, usual) and key in head.fixed_options:
            raise _contradiction(f"{place}.{key}", found, value, weights)
        if key in head.weight_options and found == usual != value:
            OmegaConf.update(config, f"{place}.{key}", value, merge=False)
            adopted.append(f"{place}.{key}={value}")
    return adopted


def _contradiction(key: str, found: Any, value: Any, weights: str) -> UserError:
    return UserError(f"{key}={found}, but weights={weights} go with {value}; leave {key} out, the weights set it.")


def adopt_whole(config: DictConfig, spec: ModelSpec, weights: str, names: Iterable[str], purpose: str) -> DictConfig:
    """Returns the config with network, heads, input and normalization of the weights, whatever it had before.

    Args:
        config: The config of a training run.
        spec: The model that the weights belong to.
        weights: The user's name for them.
        names: The heads that are those of the weights.
        purpose: What asks for them, for the message.

    Raises:
        UserError: The weights lack one of them.
    """
    heads: dict[str, Any] = {}
    for name in names:
        if name not in spec.heads:
            raise UserError(f"weights={weights} do {', '.join(spec.heads)}, but {_wanted(name)}; {purpose}.")
        head = spec.heads[name]
        heads[place_of(config, name)] = {**HEADS.options(head["name"]), **head}
    theirs: dict[str, Any] = {
        "backbone": {**BACKBONES.options(spec.backbone["name"]), **spec.backbone},
        **heads,
        "input": asdict(spec.input),
        "normalisation": {"mean": spec.mean, "std": spec.std},
    }
    config = config.copy()
    for part, values in theirs.items():
        new = OmegaConf.create(values)
        changed = [
            f"{part}.{key}={value}" for key, value in new.items() if OmegaConf.select(config, part).get(key) != value
        ]
        if changed:
            _log.info("the weights set %s", ", ".join(changed))
        OmegaConf.update(config, part, new, merge=False)
    return config


def _wanted(head: str) -> str:
    return f"task is {head}" if head in TASKS else f"{head} is a head of this run"


def _listed(value: Any) -> Any:
    """Makes tuples, which specs hold, and the lists of a config comparable."""
    return list(value) if isinstance(value, tuple | ListConfig) else value
