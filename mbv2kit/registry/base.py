"""A registry maps names to constructors and fills itself from the modules of one package.

To add a name, add a module to the package and decorate a class or function in it; nothing else changes. Plugins do so
from packages of their own.

The options of a part are the arguments of its constructor that have a default, and they are its keys on the command
line. Options that several parts share are the fields of a frozen dataclass: an argument whose default is such a
dataclass stands for its fields. The annotations of both say which values an option may have; they are checked before
the constructor is called.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Generic, TypeVar

from mbv2kit.errors import UserError, nearest
from mbv2kit.registry.plugins import load_installed, note_package, package_of
from mbv2kit.schema import check_value, keys_of, shown

T = TypeVar("T")


class Registry(Generic[T]):
    """Maps the names of one kind of part ("backbone", "head", "dataset") to their constructors.

    Args:
        kind: What the parts are called in messages.
        package: Dotted name of the package whose modules register the parts; they are imported on first use.
        group: Group of the command line whose choices the names are; ``kind`` unless given.
        name_key: Key of that group that holds the name.
        shared: Dataclass of options that every part has besides those of its constructor.
        several: Group whose choices are sets of parts, one for each head of a model; None if there is none.
    """

    def __init__(
        self,
        kind: str,
        package: str,
        *,
        group: str | None = None,
        name_key: str = "name",
        shared: object = None,
        several: str | None = None,
    ) -> None:
        self.kind = kind
        self.group = group or kind
        self.name_key = name_key
        self.shared = shared
        self.several = several
        self._package = package
        self._builders: dict[str, Callable[..., T]] = {}
        self._defaults: dict[str, dict[str, Any]] = {}
        self._imported = False

    def register(self, name: str, **defaults: Any) -> Callable[[Callable[..., T]], Callable[..., T]]:
        """Registers the decorated class or function under ``name``.

        Args:
            name: What users call the part.
            **defaults: Options whose default under this name differs from that of the constructor.

        Raises:
            ValueError: The name is taken.
        """

        def add(builder: Callable[..., T]) -> Callable[..., T]:
            if package_of(builder) is not None:
                self._import_own()  # so that a plugin cannot take one of their names
                note_package(builder)
            if name in self._builders:
                raise ValueError(f"{self.kind} '{name}' is registered twice: {self._builders[name]} and {builder}")
            self._builders[name] = builder
            self._defaults[name] = defaults
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
            raise UserError(f"There is no {self.kind} {shown(name)}.{nearest(name, self._builders)}")
        return self._builders[name]

    def get_class(self, name: str) -> type[T]:
        """Returns the class of ``name``, for what it declares before anything is built.

        Raises:
            UserError: The name is unknown.
            TypeError: It is the name of a function.
        """
        builder = self.get(name)
        if not isinstance(builder, type):
            raise TypeError(f"{self.kind} '{name}' must be a class, got {builder}")
        return builder

    def create(self, name: str, *args: Any, **options: Any) -> T:
        """Builds ``name``.

        Raises:
            UserError: The name or an option is unknown, or the annotation or the constructor refuses a value.
        """
        builder = self.get(name)
        parameters = inspect.signature(builder).parameters
        known = [key for parameter in parameters.values() for key in _expand(parameter)]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            for option in options:
                if option not in known:
                    raise UserError(f"{self.kind} '{name}' has no option {shown(option)}.{nearest(option, known)}")
        shared, kinds, own = _values(self.shared), self.kinds(name), self.options(name)
        options = {key: value for key, value in self._defaults.get(name, {}).items() if key not in shared} | options
        try:
            for key, value in options.items():
                if key in own:
                    check_value(key, value, kinds[key])
            for key, parameter in parameters.items():
                if _are_options(parameter.default):
                    given = {field: options.pop(field) for field in _expand(parameter) if field in options}
                    options[key] = replace(parameter.default, **given)
            return builder(*args, **options)
        except UserError as error:
            # The constructor knows its options, but not the name that it is registered under.
            if str(error).partition(" ")[0] in known:
                raise UserError(f"{self.kind} '{name}': {error}") from None
            raise

    def options(self, name: str) -> dict[str, Any]:
        """Returns the options of the constructor of ``name``, with their defaults."""
        defaults: dict[str, Any] = {}
        for parameter in inspect.signature(self.get(name)).parameters.values():
            defaults |= {key: value for key, value in _expand(parameter).items() if value is not parameter.empty}
        return defaults | {key: value for key, value in self._defaults.get(name, {}).items() if key in defaults}

    def keys(self, name: str) -> dict[str, Any]:
        """Returns the keys that ``group=name`` puts on the command line, with their defaults."""
        options = self.options(name)
        changed = self._defaults.get(name, {})
        shared = {key: changed.get(key, value) for key, value in _values(self.shared).items()}
        return {self.name_key: name, **shared, **options}

    def kinds(self, name: str) -> dict[str, Any]:
        """Returns what each key of ``name`` may be, as an annotation; an argument without one is like its default."""
        kinds = {self.name_key: str, **(_kinds(self.shared) if self.shared is not None else {})}
        for parameter in _signature(self.get(name)).parameters.values():
            if _are_options(parameter.default):
                kinds |= _kinds(parameter.default)
            elif parameter.default is not parameter.empty:
                kinds[parameter.name] = _kind(parameter)
        return kinds

    def check(self, config: Mapping[str, Any], prefix: str) -> None:
        """Checks the values of a part's keys before it is built.

        Args:
            config: The name and the options of a part.
            prefix: Dotted name of the key that holds them.

        Raises:
            UserError: The name is missing or unknown, or a value is none that the annotation allows.
        """
        name = config.get(self.name_key)
        check_value(f"{prefix}.{self.name_key}", name, str)
        kinds = self.kinds(str(name))
        for key, value in config.items():
            check_value(f"{prefix}.{key}", value, kinds.get(key, Any))

    def package(self, name: str) -> str | None:
        """Returns the package outside mbv2kit that registered ``name``; None for mbv2kit itself."""
        return package_of(self.get(name))

    def _import_all(self) -> None:
        self._import_own()
        load_installed()

    def _import_own(self) -> None:
        if not self._imported:
            self._imported = True
            for module in iter_modules(import_module(self._package).__path__, prefix=f"{self._package}."):
                import_module(module.name)


def _are_options(default: object) -> bool:
    """Tells whether the default of an argument is a dataclass of options."""
    return is_dataclass(default) and not isinstance(default, type)


@cache
def _signature(builder: Callable[..., Any]) -> inspect.Signature:
    """Returns the signature of a constructor, with annotations that are text turned into what they name."""
    try:
        return inspect.signature(builder, eval_str=True)
    except Exception:  # a plugin's annotation may name anything
        return inspect.signature(builder)


def _kind(parameter: inspect.Parameter) -> Any:
    if parameter.annotation is not parameter.empty and not isinstance(parameter.annotation, str):
        return parameter.annotation
    default = parameter.default
    if isinstance(default, bool | str):
        return type(default)
    if isinstance(default, int | float):
        return float
    return Sequence[Any] if isinstance(default, list | tuple) else Any


def _kinds(options: Any) -> dict[str, Any]:
    """Returns the annotations of the fields of a dataclass of options."""
    hints = keys_of(type(options))
    return {field.name: hints[field.name] for field in fields(options)}


def _values(options: Any) -> dict[str, Any]:
    """Returns the fields of a dataclass of options; nothing for anything else."""
    return {field.name: getattr(options, field.name) for field in fields(options)} if _are_options(options) else {}


def _expand(parameter: inspect.Parameter) -> dict[str, Any]:
    """Returns the options that an argument stands for, with their defaults: itself, or the fields of its default."""
    return _values(parameter.default) if _are_options(parameter.default) else {parameter.name: parameter.default}
