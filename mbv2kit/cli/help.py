"""The text of ``--help``: the command's description, the groups with their choices, and every key."""

from inspect import cleandoc
from textwrap import wrap
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from mbv2kit.cli.overrides import Groups


def prepare_help(description: str) -> None:
    """Registers what ``conf/hydra/help/tool.yaml`` fills in.

    Args:
        description: Text at the top.
    """
    # Hydra fills the help's template with string.Template, which reads $ as a sign of its own.
    OmegaConf.register_new_resolver("tool_description", lambda: cleandoc(description).replace("$", "$$"), replace=True)
    OmegaConf.register_new_resolver("tool_choices", _list_choices, replace=True)


def _list_choices() -> str:
    config: Any = HydraConfig.instance().cfg
    groups = Groups(GlobalHydra.instance().config_loader(), config.hydra.job.config_name, config)
    lines: list[str] = []
    for group, chosen in sorted(groups.chosen.items()):
        names = ", ".join(f"*{name}" if name == chosen else name for name in groups.choices(group))
        lines += wrap(names, 100, initial_indent=f"  {group:<12}", subsequent_indent=" " * 14)
    title = "GROUPS: group=choice takes a whole set of keys (* marks what this command line takes)"
    return "\n".join([title, *lines, "", ""]) if lines else ""
