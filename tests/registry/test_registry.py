import sys
from pathlib import Path
from typing import Any

import pytest

from mbv2kit.errors import UserError
from mbv2kit.registry import Registry


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry[Any]:
    """A registry over a package of two files, neither of which its ``__init__`` mentions."""
    package = tmp_path / "engine_room"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from dataclasses import dataclass\n"
        "from mbv2kit.registry import Registry\n"
        "@dataclass(frozen=True)\n"
        "class FuelOptions:\n"
        "    fuel: str = 'none'\n"
        "ENGINES = Registry('engine', __name__, group='motor', name_key='kind', shared=FuelOptions())\n"
    )
    (package / "steam.py").write_text(
        "from engine_room import ENGINES\n"
        "from mbv2kit.errors import UserError\n"
        "@ENGINES.register('steam')\n"
        "class Steam:\n"
        "    def __init__(self, boiler, pressure=2.5, valves=(1, 2)):\n"
        "        if pressure > 10:\n"
        "            raise UserError(f'pressure must be at most 10, got {pressure}.')\n"
        "        if boiler == 'wood':\n"
        "            raise UserError('wood.txt: this boiler burns.')\n"
        "        self.boiler, self.pressure, self.valves = boiler, pressure, valves\n"
    )
    (package / "sail.py").write_text(
        "from dataclasses import dataclass\n"
        "from engine_room import ENGINES\n"
        "@dataclass(frozen=True)\n"
        "class CrewOptions:\n"
        "    sailors: int = 3\n"
        "    captain: str = 'Ann'\n"
        "    def __post_init__(self):\n"
        "        if self.sailors < 1:\n"
        "            raise ValueError('no sailors')\n"
        "@ENGINES.register('sloop')\n"
        "@ENGINES.register('schooner', sailors=12, masts=2, fuel='coffee')\n"
        "class Sail:\n"
        "    def __init__(self, wood, masts=1, crew: CrewOptions = CrewOptions(captain='Bob'), flag='red'):\n"
        "        self.wood, self.masts, self.crew, self.flag = wood, masts, crew, flag\n"
    )
    (package / "wind.py").write_text(
        "from engine_room import ENGINES\n@ENGINES.register('wind')\ndef wind(**options):\n    return options\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for module in [name for name in sys.modules if name.partition(".")[0] == "engine_room"]:
        monkeypatch.delitem(sys.modules, module)
    from engine_room import ENGINES  # type: ignore[import-not-found]

    assert isinstance(ENGINES, Registry)
    return ENGINES


def test_a_file_in_the_package_adds_a_name(engines: Registry[Any]) -> None:
    assert engines.names() == ["schooner", "sloop", "steam", "wind"]


def test_create_passes_arguments_and_keeps_other_defaults(engines: Registry[Any]) -> None:
    engine = engines.create("steam", "copper", pressure=4.0)
    assert (engine.boiler, engine.pressure, engine.valves) == ("copper", 4.0, (1, 2))


def test_options_are_the_arguments_with_a_default(engines: Registry[Any]) -> None:
    assert engines.options("steam") == {"pressure": 2.5, "valves": (1, 2)}
    assert engines.options("wind") == {}


def test_an_argument_with_a_dataclass_as_default_stands_for_its_fields(engines: Registry[Any]) -> None:
    assert list(engines.options("sloop").items()) == [
        ("masts", 1), ("sailors", 3), ("captain", "Bob"), ("flag", "red")
    ]  # fmt: skip
    engine = engines.create("sloop", "oak", sailors=5, flag="blue")
    assert (engine.masts, engine.crew.sailors, engine.crew.captain, engine.flag) == (1, 5, "Bob", "blue")
    assert engines.create("sloop", "oak").crew.sailors == 3
    with pytest.raises(ValueError, match="no sailors"):
        engines.create("sloop", "oak", sailors=0)
    with pytest.raises(UserError, match=r"engine 'sloop' has no option 'sailor'\. Did you mean 'sailors'\?"):
        engines.create("sloop", "oak", sailor=5)
    with pytest.raises(UserError, match="engine 'sloop' has no option 'crew'"):
        engines.create("sloop", "oak", crew=None)


def test_a_name_may_change_defaults_of_the_constructor(engines: Registry[Any]) -> None:
    assert engines.options("schooner") == {"masts": 2, "sailors": 12, "captain": "Bob", "flag": "red"}
    engine = engines.create("schooner", "oak", masts=3)
    assert (engine.masts, engine.crew.sailors, engine.crew.captain) == (3, 12, "Bob")


def test_keys_are_the_name_the_shared_options_and_those_of_the_constructor(engines: Registry[Any]) -> None:
    assert list(engines.keys("steam").items()) == [
        ("kind", "steam"), ("fuel", "none"), ("pressure", 2.5), ("valves", (1, 2))
    ]  # fmt: skip
    assert engines.keys("schooner")["fuel"] == "coffee"
    assert engines.group == "motor"


def test_a_class_is_found_by_name_and_a_function_is_none(engines: Registry[Any]) -> None:
    assert engines.get_class("steam").__name__ == "Steam"
    assert engines.get_class("schooner") is engines.get_class("sloop")
    with pytest.raises(TypeError, match="engine 'wind' must be a class"):
        engines.get_class("wind")
    with pytest.raises(UserError, match="There is no engine 'winds'"):
        engines.get_class("winds")


def test_an_unknown_name_names_the_nearest(engines: Registry[Any]) -> None:
    with pytest.raises(UserError, match=r"There is no engine 'stem'\. Did you mean 'steam'\?"):
        engines.create("stem")


def test_a_name_of_any_length_is_a_short_message(engines: Registry[Any]) -> None:
    with pytest.raises(UserError, match=r"There is no engine 'x+\.\.\.x+'\. Known: .*steam") as raised:
        engines.create("x" * 100_000)
    assert len(str(raised.value)) < 300


def test_an_unknown_option_names_the_nearest(engines: Registry[Any]) -> None:
    with pytest.raises(UserError, match=r"engine 'steam' has no option 'presure'\. Did you mean 'pressure'\?"):
        engines.create("steam", "copper", presure=4.0)


def test_an_error_about_an_option_names_the_part(engines: Registry[Any]) -> None:
    with pytest.raises(UserError, match=r"^engine 'steam': pressure must be at most 10, got 11\.$"):
        engines.create("steam", "copper", pressure=11)


def test_an_error_about_a_file_stays_as_it_is(engines: Registry[Any]) -> None:
    with pytest.raises(UserError, match=r"^wood\.txt: this boiler burns\.$"):
        engines.create("steam", "wood")


def test_a_constructor_that_takes_anything_gets_anything(engines: Registry[Any]) -> None:
    assert engines.create("wind", knots=12) == {"knots": 12}


def test_a_name_is_given_only_once(engines: Registry[Any]) -> None:
    with pytest.raises(ValueError, match="engine 'steam' is registered twice"):
        engines.names() and engines.register("steam")(dict)
