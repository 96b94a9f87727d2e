"""A registry maps names to constructors and fills itself from the modules of one package.

To add a name, add a module to the package and decorate a class or function in it; nothing else changes.
"""

import inspect
from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Generic, TypeVar

from mbv2kit.errors import UserError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """Maps the names of one kind of part ("backbone", "head", "dataset") to their constructors.

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
        """Registers the decorated class or function under ``name``; raises ValueError if the name is taken."""

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
        """Returns the constructor of ``name``; raises :class:`UserError` with the nearest name if it is unknown."""
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
            # The constructor knows its options, but not the name that it is registered under.
            if str(error).partition(" ")[0] in parameters:
                raise UserError(f"{self.kind} '{name}': {error}") from None
            raise

    def options(self, name: str) -> dict[str, Any]:
        """Returns the arguments of the constructor of ``name`` that have a default, with their defaults."""
        parameters = inspect.signature(self.get(name)).parameters
        return {key: p.default for key, p in parameters.items() if p.default is not p.empty}

    def _import_all(self) -> None:
        if not self._imported:
            self._imported = True
            for module in iter_modules(import_module(self._package).__path__, prefix=f"{self._package}."):
                import_module(module.name)
