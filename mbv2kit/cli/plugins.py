"""The plugins that a command line or a recipe names, imported before the parts that they register are chosen."""

from collections.abc import Iterator, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException

from mbv2kit.cli.recipes import read_experiment, register_recipes
from mbv2kit.registry.plugins import load_named


def load_plugins(overrides: Sequence[str], config_dir: str | None = None) -> None:
    """Imports the modules that ``plugins=[...]`` names on the command line, or in the experiment that it chooses.

    Args:
        overrides: The command line.
        config_dir: A user's folder of further choices.

    Raises:
        UserError: A plugin is not there, or cannot be imported.
    """
    for override in _parse(register_recipes(overrides)):
        for value in _values(override):
            if override.key_or_group == "experiment":
                value = read_experiment(str(value), config_dir).get("plugins")
            # Anything else is reported with the other overrides.
            if isinstance(value, Sequence) and not isinstance(value, str):
                load_named(map(str, value))


def _parse(overrides: Sequence[str]) -> Iterator[Override]:
    for line in overrides:
        if line.startswith(("plugins=", "experiment=")):
            try:
                yield OverridesParser.create().parse_override(line)
            except HydraException:
                continue  # reported with the other overrides


def _values(override: Override) -> list[object]:
    values = list(override.sweep_iterator()) if override.is_sweep_override() else [override.value()]
    return [value.text if isinstance(value, QuotedString) else value for value in values]
