"""Runs a command on Hydra's command line: flags, sweeps and exit codes; a user's mistake is one line on stderr."""

import io
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser, run_and_report
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from mbv2kit.cli.config import compose, conf_folder, read_names, register_parts, without_hydra
from mbv2kit.cli.extras import explain_missing
from mbv2kit.cli.keys import mapping_keys
from mbv2kit.cli.overrides import flatten
from mbv2kit.cli.plugins import load_plugins
from mbv2kit.cli.recipe_sets import drop_unchosen
from mbv2kit.errors import EXPECTED_LAYOUT, UserError
from mbv2kit.files.disk_errors import disk_errors_told
from mbv2kit.memory import memory_errors_told
from mbv2kit.process import configure_threads
from mbv2kit.registry import Registry
from mbv2kit.schema import check_value
from mbv2kit.schema.rules import Name
from mbv2kit.texts import shown

Job = Callable[[DictConfig], int | None]
Parts = Callable[[], Iterable[Registry[Any]]]


def run_command(
    name: str,
    description: str | None,
    job: Job,
    argv: Sequence[str] | None = None,
    *,
    parts: Parts | None = None,
    extra: str = "train",
    conf: Path | None = None,
) -> NoReturn:
    """Composes the configuration of a command with its command line, runs ``job`` on it and exits.

    The exit code is what the job returns (None is 0), the highest one if a sweep runs several jobs; 2 after one line
    on stderr if the request is wrong; 130 after Ctrl-C, which for training means stopped and saved, as 143 does after
    SIGTERM.

    Args:
        name: The command, as in ``mbv2kit NAME``; its configuration is the file of that name in ``conf``.
        description: Text at the top of ``--help``.
        job: What to do with the configuration. It imports what takes long to import, so that mistakes are reported at
            once. In a sweep (``-m``) each job's ``run_dir`` is the subfolder of its number.
        argv: The command line without the command, Hydra's flags included; None takes that of this process.
        parts: Returns the registries whose names are choices of the configuration's groups; it imports them. None if
            there are no such groups.
        extra: Extra of the package that brings everything the command needs.
        conf: Folder of the configuration files; None for the project's own.
    """
    configure_threads()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name in another encoding must not end a command whose work is done.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        arguments = sys.argv[1:] if argv is None else list(argv)
        explained = explain_missing(name, extra)
        sys.exit(explained(_run)(name, description or "", explained(job), arguments, parts, conf or conf_folder()))
    except UserError as error:
        _print_error(error)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of the output, such as head, has closed it; the interpreter must not try to flush the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def _run(name: str, description: str, job: Job, arguments: list[str], parts: Parts | None, conf: Path) -> int:
    config_name = name.replace("-", "_")
    parser = get_args_parser()
    parser.allow_abbrev = False
    known, rest = parser.parse_known_args(arguments)
    # argparse takes key=value only in one row; flags may stand anywhere between them here.
    given = [*known.overrides, *rest]
    flags = [argument for argument in arguments if argument not in given]
    load_plugins(given, known.config_dir)
    registries = [] if parts is None else list(parts())
    register_parts(conf, registries)
    overrides = read_names(conf, config_name, given)
    for argument in rest:
        if argument.startswith("-"):
            from mbv2kit.cli.suggestions import unknown_flag

            keys = flatten(without_hydra(compose(conf, config_name, complete=False)))
            raise UserError(unknown_flag(argument, parser._option_string_actions, keys))
    if known.config_path or known.config_name or known.experimental_rerun:
        raise UserError(f"The configuration is {conf / config_name}.yaml; add your own files with --config-dir DIR.")
    only_shows = known.help or known.hydra_help or known.cfg or known.info
    config = compose(
        conf,
        config_name,
        overrides,
        config_dir=known.config_dir,
        multirun=known.multirun,
        complete=not only_shows,
    )

    if known.help:
        from mbv2kit.cli.help import help_text, help_width

        print(help_text(conf, config_name, config, description, registries, known.config_dir, width=help_width()))
        return 0
    verbose = config.hydra.verbose
    check_value("hydra.verbose", list(verbose) if OmegaConf.is_list(verbose) else verbose, bool | Name | Sequence[Name])
    sys.argv = [f"mbv2kit {name}", *flags, *overrides]
    codes: list[int] = []

    def run(config: DictConfig) -> None:
        hydra_config = HydraConfig.get()
        drop_unchosen(config, hydra_config.overrides.task, registries, mapping_keys(config_name, registries))
        if hydra_config.mode == RunMode.MULTIRUN and config.get("run_dir"):
            config.run_dir = f"{config.run_dir}/{hydra_config.job.num}"
        try:
            with disk_errors_told(str(config.get("output") or config.get("run_dir") or ".")), memory_errors_told():
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
    """Runs a single job on the composed configuration; Hydra would compose it twice more, which slows short jobs down.

    ``conf/tool.yaml`` turns off everything else that Hydra does for a job.
    """
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    try:
        job(without_hydra(config))
    finally:
        HydraConfig.instance().cfg = before


def _print_error(error: UserError) -> None:
    sentence, mark, layout = str(error).partition(f"{EXPECTED_LAYOUT}\n")
    print("\n".join([f"error: {shown(sentence)}{mark.strip()}", *map(shown, layout.splitlines())]), file=sys.stderr)
