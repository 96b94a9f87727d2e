"""Plugins: packages outside mbv2kit that register backbones, heads, data sets and augmentations.

A plugin is imported because its user installed it with an entry point of the group ``mbv2kit.plugins``, or named it.
What a file says, such as ``model.json``, never makes anything import: files say only which plugins to ask for.
"""

import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

from mbv2kit.errors import UserError, one_line

GROUP = "mbv2kit.plugins"
_OURS = __name__.partition(".")[0]
# Packages that have registered a part.
_packages: set[str] = set()
_installed_are_loaded = False


def load_installed() -> None:
    """Imports every plugin that is installed with an entry point, the first time that it is called.

    Raises:
        UserError: One cannot be imported.
    """
    global _installed_are_loaded
    if not _installed_are_loaded:
        _installed_are_loaded = True
        # Imported here, so that a command without torch starts faster.
        from importlib.metadata import entry_points

        for entry in entry_points(group=GROUP):
            _import(entry.module, f"The plugin {entry.name} cannot be imported ({{}}); mend or uninstall it.")


def load_named(names: Iterable[str]) -> None:
    """Imports the plugins that a user names; they may lie in the current folder.

    Args:
        names: Names of modules, as an import statement has them.

    Raises:
        UserError: One is not there, or cannot be imported.
    """
    for name in names:
        here = str(Path.cwd())
        # Last, so that a file of the current folder stands in for no other module.
        if here not in sys.path:
            sys.path.append(here)
        _import(name, f"plugins: '{name}' cannot be imported ({{}}); name a module on Python's path or in {here}.")


def check_plugins(needed: Iterable[str], owner: str) -> None:
    """Raises a :class:`UserError` unless every plugin that ``owner`` needs has registered its parts.

    Args:
        needed: Names of packages.
        owner: What needs them, as the message calls it.
    """
    if not set(needed) <= _packages:
        load_installed()
    if missing := sorted(set(needed) - _packages):
        raise UserError(
            f"{owner} needs the plugin {missing[0]}, which is not installed; install it, "
            f"or name it with plugins=[{missing[0]}]."
        )


def package_of(builder: object) -> str | None:
    """Returns the package outside mbv2kit that a part's constructor comes from; None for mbv2kit itself."""
    package = str(getattr(builder, "__module__", _OURS)).partition(".")[0]
    script = getattr(sys.modules["__main__"], "__file__", None)
    if package == "__main__" and script is not None:
        package = Path(script).stem  # another program imports it by this name
    return None if package == _OURS else package


def note_package(builder: object) -> None:
    """Remembers that a package has registered a part."""
    if package := package_of(builder):
        _packages.add(package)


def _import(module: str, message: str) -> None:
    try:
        import_module(module)
    except UserError:
        raise
    except Exception as error:
        raise UserError(message.format(f"{type(error).__name__}: {one_line(error)}")) from error
