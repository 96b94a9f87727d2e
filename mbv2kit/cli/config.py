"""The tools' command line: Hydra's, with a user's slip told in one sentence before anything starts.

Hydra composes the files in ``conf/``. The groups ``backbone`` and ``head`` have no files there: each name in a registry
is a choice, and the arguments of its constructor are the keys. ``dataset`` works so for a source without a file.
"""

import ast
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser, run_and_report
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mbv2kit.cli.overrides import Groups, check_group_choice, check_keys, check_override, flatten, parse, split_sweep
from mbv2kit.errors import UserError, nearest
from mbv2kit.process import let_threads_sleep

Job = Callable[[DictConfig], int | None]


def run_tool(
    tool_file: str, config_name: str, job: Job, overrides: Sequence[str] | None = None, *, parts: bool = False
) -> NoReturn:
    """Composes ``conf/CONFIG_NAME.yaml`` with the command line, runs ``job`` on it and exits.

    The exit code is what the job returns (None is 0), the highest one where a sweep runs several jobs; 2 after one line
    on stderr where the request was wrong; 130 after Ctrl-C.

    Args:
        tool_file: ``__file__`` of the tool, which lies beside ``conf/``; its docstring heads ``--help``.
        config_name: Name of the configuration, without suffix.
        job: What to do with the configuration; it imports what takes long to import. In a sweep (``-m``) each job's
            ``run_dir`` is the sub-folder of its number.
        overrides: The command line, Hydra's flags included; that of this process where None.
        parts: Whether the configuration has the groups of the registries; it takes torch to find them.
    """
    tool = Path(tool_file).resolve()
    let_threads_sleep()
    try:
        sys.exit(_run(tool, config_name, job, sys.argv[1:] if overrides is None else list(overrides), parts))
    except UserError as error:
        _print_error(error)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # What reads the output, such as head, has enough; the interpreter must not try to flush the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def _run(tool: Path, config_name: str, job: Job, arguments: list[str], parts: bool) -> int:
    conf = tool.parents[1] / "conf"
    if parts:
        register_parts(conf)
    parser = get_args_parser()
    known, rest = parser.parse_known_args(arguments)
    for argument in rest:
        if argument.startswith("-"):
            raise UserError(f"There is no flag '{argument}'.{nearest(argument, parser._option_string_actions)}")
    # argparse takes key=value only in one row; flags may stand anywhere between them here.
    overrides = [*known.overrides, *rest]
    flags = [argument for argument in arguments if argument not in overrides]
    if known.config_dir or known.config_path or known.config_name or known.experimental_rerun:
        raise UserError(f"The configuration is {conf / config_name}.yaml; put your own choices beside it in {conf}.")
    only_shows = known.help or known.hydra_help or known.cfg or known.info
    config = _compose(conf, config_name, overrides, multirun=known.multirun, complete=not only_shows)

    OmegaConf.register_new_resolver("tool_description", lambda: _description(tool), replace=True)
    OmegaConf.register_new_resolver("tool_choices", _list_choices, replace=True)
    sys.argv = [str(tool), *flags, *overrides]
    codes: list[int] = []

    def run(config: DictConfig) -> None:
        hydra_config = HydraConfig.get()
        if hydra_config.mode == RunMode.MULTIRUN and config.get("run_dir"):
            config.run_dir = f"{config.run_dir}/{hydra_config.job.num}"
        try:
            codes.append(job(config) or 0)
        except UserError as error:
            _print_error(error)
            codes.append(2)

    if flags or config.hydra.overrides.hydra:
        hydra.main(version_base="1.3", config_path=str(conf), config_name=config_name)(run)()
    else:
        run_and_report(lambda: _run_once(run, config))
    return max(codes, default=0)


def _run_once(job: Callable[[DictConfig], None], config: DictConfig) -> None:
    """Runs a single job on what is composed already; Hydra would compose it twice more, which a short job notices.

    Nothing else that Hydra does for a job is wanted here (see ``conf/tool.yaml``).
    """
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    try:
        job(_without_hydra(config))
    finally:
        HydraConfig.instance().cfg = before


def _print_error(error: UserError) -> None:
    print(f"error: {error}", file=sys.stderr)


def register_parts(conf: Path) -> None:
    """Makes every backbone, head and source a choice of its group, with its options as keys.

    A name that has a file in ``conf`` is left to that file.
    """
    from mbv2kit.backbones.registry import BACKBONES
    from mbv2kit.data.sources.base import SOURCES
    from mbv2kit.heads.registry import HEADS

    common = {"root": None, "train_split": "train", "val_split": "val"}
    nodes = {
        "backbone": {name: BACKBONES.options(name) for name in BACKBONES.names()},
        "head": {name: HEADS.options(name) for name in HEADS.names()},
        "dataset": {name: common | SOURCES.options(name) for name in SOURCES.names()},
    }
    for group, choices in nodes.items():
        for name, options in choices.items():
            if not (conf / group / f"{name}.yaml").exists():
                ConfigStore.instance().store(group=group, name=name, node={"name": name, **options})


def compose_config(
    conf: Path, config_name: str, overrides: Sequence[str] = (), *, multirun: bool = False
) -> DictConfig:
    """Composes a configuration as the tools do, and checks every override on the way.

    Args:
        conf: Folder of the configuration files.
        config_name: Name of the configuration, without suffix.
        overrides: ``key=value`` and ``group=choice``.
        multirun: Whether values may be sweeps; every value is checked, and the first job's configuration returned.

    Raises:
        UserError: A key, a choice or a value is wrong, or something is missing or cannot be worked out.
    """
    return _without_hydra(_compose(conf, config_name, overrides, multirun=multirun, complete=True))


def _compose(conf: Path, config_name: str, overrides: Sequence[str], *, multirun: bool, complete: bool) -> DictConfig:
    """Does what :func:`compose_config` says, but leaves Hydra's own node in the configuration.

    To be shown, a configuration need not be ``complete``: some of its keys may lack a value.
    """
    OmegaConf.register_new_resolver("conf_dir", lambda: str(conf.resolve()), replace=True)
    try:
        with hydra.initialize_config_dir(str(conf.resolve()), version_base="1.3"):
            base = hydra.compose(config_name, return_hydra_config=True)
            groups = Groups(GlobalHydra.instance().config_loader(), config_name, base)
            jobs = split_sweep(parse(overrides, groups), multirun=multirun)
            configs = [_compose_job(config_name, job, groups, base) for job in jobs]
            for config in configs if complete else ():
                if missing := sorted(OmegaConf.missing_keys(_without_hydra(config))):
                    raise UserError(f"'{missing[0]}' has no value; give one with {missing[0]}=VALUE.")
            return configs[0]
    except (HydraException, OmegaConfBaseException, ValueError, OSError) as error:
        raise UserError(_sentence(error)) from error


def _compose_job(config_name: str, lines: list[str], groups: Groups, base: DictConfig) -> DictConfig:
    overrides = [item for item in parse(lines, groups) if not item.is_hydra_override()]
    choices = [item for item in overrides if item.key_or_group in groups.chosen and not isinstance(item.value(), dict)]
    for choice in choices:
        check_group_choice(choice, groups.choices(choice.key_or_group))
    chosen = [str(choice.input_line) for choice in choices]
    parts = hydra.compose(config_name, chosen, return_hydra_config=True) if chosen else base
    known = _known_keys(config_name, parts)
    for item in overrides:
        if item not in choices:
            check_override(item, known)

    config = hydra.compose(config_name, lines, return_hydra_config=True)
    OmegaConf.to_container(_without_hydra(config), resolve=True)
    return config


def _without_hydra(config: DictConfig) -> DictConfig:
    rest = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    OmegaConf.set_struct(rest, True)
    return rest


def _known_keys(config_name: str, config: DictConfig) -> dict[str, Any]:
    """Returns every key of the chosen parts with its default, and checks that an experiment sets no others."""
    chosen = config.hydra.runtime.choices
    keys = {key: value for key, value in flatten(config).items() if key.partition(".")[0] != "hydra"}
    experiment = chosen.get("experiment")
    if experiment is None:
        return keys
    parts = [f"{group}={name}" for group, name in chosen.items() if name is not None and group != "experiment"]
    known = flatten(hydra.compose(config_name, parts))
    check_keys(keys, known, f"conf/experiment/{experiment}.yaml: ")
    return known


def _sentence(error: Exception) -> str:
    """Says in one line what Hydra and OmegaConf spread over several."""
    if isinstance(error, OmegaConfBaseException):
        reason = str(error.msg or error).strip().splitlines()[0]
        return f"{error.full_key}: {reason}." if error.full_key else f"{reason}."
    text = str(error).partition("search path:")[0].removesuffix("Config ").strip()
    if isinstance(error.__cause__, OmegaConfBaseException):
        text = f"{text} {_sentence(error.__cause__)}"
    return " ".join(text.split()) or type(error).__name__


def _description(tool: Path) -> str:
    # Hydra fills the help's template with string.Template, which reads $ as a sign of its own.
    return (ast.get_docstring(ast.parse(tool.read_text(encoding="utf-8"))) or "").replace("$", "$$")


def _list_choices() -> str:
    config: Any = HydraConfig.instance().cfg
    groups = Groups(GlobalHydra.instance().config_loader(), config.hydra.job.config_name, config)
    lines: list[str] = []
    for group, chosen in sorted(groups.chosen.items()):
        names = ", ".join(f"*{name}" if name == chosen else name for name in groups.choices(group))
        lines += wrap(names, 100, initial_indent=f"  {group:<12}", subsequent_indent=" " * 14)
    title = "GROUPS: group=choice takes a whole set of keys (* marks what this command line takes)"
    return "\n".join([title, *lines, "", ""]) if lines else ""
