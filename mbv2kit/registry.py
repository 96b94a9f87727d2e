"""A dictionary from names to constructors that fills itself from the files of one package.

A file that lies in the package and decorates a class or function is all it takes to add a name.
"""

import inspect
from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Generic, TypeVar

from mbv2kit.errors import UserError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """Names of one kind of part ("backbone", "head", "dataset") and what builds them.

    Args:
        kind: What the parts are called in messages.
        package: Dotted name of the package whose modules register the parts; they are imported on first use.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self._package = package
        self._builders: dict[str, Callable[..., T]] = {}
        self._imported = False

    def register(self, name: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
        """Decorates a class or function that builds the part called ``name``; a name is given only once."""

        def add(builder: Callable[..., T]) -> Callable[..., T]:
            if name in self._builders:
                raise ValueError(f"{self.kind} '{name}' is registered twice: {self._builders[name]} and {builder}")
            self._builders[name] = builder
            return builder

        return add

    def names(self) -> list[str]:
        """Returns every registered name in alphabetical order."""
        self._import_all()
        return sorted(self._builders)

    def get(self, name: str) -> Callable[..., T]:
        """Returns what builds ``name``; raises :class:`UserError` with the nearest name for an unknown one."""
        self._import_all()
        if name not in self._builders:
            raise UserError(f"There is no {self.kind} '{name}'.{nearest(name, self._builders)}")
        return self._builders[name]

    def create(self, name: str, *args: Any, **options: Any) -> T:
        """Builds ``name``.

        Raises:
            UserError: The name or an option is unknown, or the constructor refuses a value.
        """
        builder = self.get(name)
        parameters = inspect.signature(builder).parameters
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            for option in options:
                if option not in parameters:
                    raise UserError(f"{self.kind} '{name}' has no option '{option}'.{nearest(option, parameters)}")
        try:
            return builder(*args, **options)
        except UserError as error:
            # A constructor knows its options, but not under which name it is registered.
            if str(error).partition(" ")[0] in parameters:
                raise UserError(f"{self.kind} '{name}': {error}") from None
            raise

    def options(self, name: str) -> dict[str, Any]:
        """Returns the options of ``name`` that have a default, with the default of each."""
        parameters = inspect.signature(self.get(name)).parameters
        return {key: p.default for key, p in parameters.items() if p.default is not p.empty}

    def _import_all(self) -> None:
        if not self._imported:
            self._imported = True
            for module in iter_modules(import_module(self._package).__path__, prefix=f"{self._package}."):
                import_module(module.name)
