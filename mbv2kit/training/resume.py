"""The configuration of a resumed run: its own, with the keys that the command line changes."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from mbv2kit.cli.keys import check_config
from mbv2kit.cli.several import parts_of, set_name
from mbv2kit.errors import UserError
from mbv2kit.models.run_folder import RunFolder
from mbv2kit.registry import Registry
from mbv2kit.registry.plugins import check_plugins
from mbv2kit.schema import check_value
from mbv2kit.training.parts import training_parts

# Changing one of these would make the tensors of the checkpoint unfit.
_FIXED = (
    "task.",
    "backbone.",
    "head.",
    "heads.",
    "input.",
    "normalisation.",
    "ema.",
    "finetune.",
    "qat.enabled",
    "dataset.name",
    "loss_weights",
    "optimizer.name",
    "optimizer.decay_norm_bias_depthwise",
)

_DATA_OF_A_TASK = re.compile(r"datasets\.\w+\.name")

# What runs of earlier versions did not have.
_LATER = ("evaluator", "export", "qat", "heads", "datasets", "loss_weights", "gradients")


def _completed(values: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """Adds the keys that there are today, at their defaults; what a run has stays as it is."""
    registries = {registry.group: registry for registry in training_parts()}
    several = {registry.several: registry for registry in registries.values()}
    completed: dict[str, Any] = {**{key: usual[key] for key in _LATER}, **values}
    for key, section in values.items():
        if not isinstance(section, Mapping):
            continue
        if key in several:
            completed[key] = {head: with_defaults(several[key], part) for head, part in section.items()}
            continue
        known = usual.get(key)
        if (registry := registries.get(key)) is not None:
            # The defaults are those of the part that the run chose.
            completed[key] = with_defaults(registry, section)
        else:
            completed[key] = {**known, **section} if isinstance(known, Mapping) else section
    return completed


def with_defaults(registry: Registry[Any], part: Any) -> Any:
    """Adds the options of a part that it lacks; a part that there is none of is reported later."""
    name = part.get(registry.name_key) if isinstance(part, Mapping) else None
    return {**registry.keys(name), **part} if name in registry.names() else part


def resumed_config(run: RunFolder, overrides: Sequence[str], usual: DictConfig | None = None) -> DictConfig:
    """Reads the config of a run and applies ``key=value`` overrides to it.

    Args:
        run: The run to resume.
        overrides: The command line; ``resume`` itself and ``plugins`` are ignored.
        usual: A config of today, which has the keys that a run of an older version lacks.

    Raises:
        UserError: The folder holds no run, or its configuration is damaged; or an override chooses another part,
            changes the model, or names a key that the run does not have. What repeats the run is no change.
    """
    if not run.config.is_file():
        raise UserError(f"resume={run.path}: this is no run folder, since it has no {run.config.name}.")
    values = run.read_config()
    values.setdefault("plugins", [])
    check_value(f"{run.config}: plugins", values.get("plugins"), Sequence[str])
    check_plugins(values["plugins"], f"The run {run.path}")
    if usual is not None:
        values = _completed(values, OmegaConf.to_container(usual, resolve=True))  # type: ignore[arg-type]
    check_config("train", values, training_parts(), f"{run.config}: ", complete=True)
    config = OmegaConf.create(values)
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        if override.key_or_group not in ("resume", "plugins") and not _is_so(config, override):
            _check_change(override, run, config)
            OmegaConf.update(config, override.key_or_group, override.value())
    check_config("train", OmegaConf.to_container(config), training_parts())  # type: ignore[arg-type]
    return config


def _name_keys() -> dict[str, str]:
    """Returns the key that names the chosen part, by its group."""
    return {"task": "name", **{registry.group: registry.name_key for registry in training_parts()}}


def _is_so(config: DictConfig, override: Override) -> bool:
    """Returns whether a run has the value already, or the part, that an override chooses."""
    key, value = override.key_or_group, override.value()
    found: Any = OmegaConf.select(config, key, default=...)
    if OmegaConf.is_config(found):
        found = OmegaConf.to_container(found)
    names = _name_keys()
    several = {registry.several: registry for registry in training_parts()}
    if isinstance(found, Mapping) and key in names:
        found = found[names[key]]
    elif isinstance(found, Mapping) and key in several:
        found = set_name(several[key], {head: part[several[key].name_key] for head, part in found.items()})
        return parts_of(found) == parts_of(str(value))
    # True would be equal to 1.
    return bool(found == value) and isinstance(found, bool) == isinstance(value, bool)


def _check_change(override: Override, run: RunFolder, config: DictConfig) -> None:
    """Raises a UserError if a resumed run cannot have another value of a key."""
    key, line = override.key_or_group, override.input_line
    if key.startswith(_FIXED) or _DATA_OF_A_TASK.fullmatch(key):
        raise UserError(f"'{line}' makes another model of the run; leave it out, or start a new run.")
    if key in (f"{group}.{name}" for group, name in _name_keys().items()) or ("." not in key and key != "seed"):
        raise UserError(
            f"resume= goes on with the run's own configuration, so '{line}' cannot be chosen anew; single keys can be "
            f"changed, such as trainer.max_epochs=60."
        )
    if OmegaConf.select(config, key, default=...) is ...:
        raise UserError(f"The run in {run.path} has no key '{key}'.")
