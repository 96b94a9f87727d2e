"""Sets of parts in a recipe: those that it names, and what a command line leaves out of them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from mbv2kit.cli.several import check_set, choose_set, read_line, read_set, set_name
from mbv2kit.registry import Registry


def choose_in_recipe(content: DictConfig, registries: Iterable[Registry[Any]]) -> DictConfig:
    """Makes the sets that a recipe names choices of their groups, so that it may name them as a command line does.

    Args:
        content: What a recipe sets; ``heads`` may be ``[HEAD,…]``, ``{NAME: HEAD}`` or ``{NAME: {name: HEAD, …}}``, and
            the last two of these go for other groups.
        registries: The registries of the parts.

    Returns:
        The recipe with the choices among its defaults, and the options of the parts.

    Raises:
        UserError: A part is unknown, or two heads of one task have no names of their own.
    """
    for registry in registries:
        part: Any = _plain(content.get(registry.several or ""))
        if registry.several is None or not part:
            continue
        parts = part if isinstance(part, Mapping) else {}
        options = {head: dict(each) if isinstance(each, Mapping) else {} for head, each in parts.items()}
        chosen = {
            head: str(each if isinstance(each, str) else options[head].pop(registry.name_key))
            for head, each in parts.items()
            if isinstance(each, str) or registry.name_key in options[head]
        }
        if isinstance(part, list):
            chosen = read_set(registry, f"{registry.several}: {part}", part)
        if chosen:
            chosen = check_set(registry, chosen)
            choose_set(registry, chosen)
            defaults = list(content.get("defaults") or [])
            place = len(defaults) - (defaults[-1:] == ["_self_"])
            defaults.insert(place, {f"override /{registry.several}": set_name(registry, chosen)})
            content = content.copy()
            content["defaults"] = defaults
            content[registry.several] = {head: each for head, each in options.items() if each}
    return content


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def drop_unchosen(
    config: DictConfig, overrides: Sequence[str], registries: Iterable[Registry[Any]], mappings: Iterable[str]
) -> None:
    """Drops what an experiment sets of heads which the set on the command line leaves out: options, data sets, values.

    Args:
        config: A composed configuration, which is changed.
        overrides: The command line, as :func:`~mbv2kit.cli.several.choose_sets` returns it.
        registries: The registries of the parts.
        mappings: The dotted keys that hold a value for each of some heads.
    """
    chosen = {line.partition("=")[0] for line in overrides}
    several = {registry.several: registry for registry in registries if registry.several is not None}
    for group in chosen & several.keys():
        parts = config.get(group)
        if not parts:
            continue
        _drop(parts, [name for name, part in parts.items() if several[group].name_key not in part])
        if several[group].group == "head":
            given = {key: values[0] for key, values in map(read_line, overrides) if key in mappings and values}
            for key in (*mappings, *(several.keys() - chosen)):
                values = OmegaConf.select(config, key)
                if isinstance(values, DictConfig):
                    kept = (*parts, *(given.get(key) or {}))
                    _drop(values, [name for name in values if name not in kept])
    for group in several:
        if config.get(group) == {}:
            config[group] = None


def _drop(values: DictConfig, names: Iterable[Any]) -> None:
    with open_dict(values):
        for name in names:
            del values[name]
