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
        "from mbv2kit.registry import Registry\nENGINES = Registry('engine', __name__)"
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
    assert engines.names() == ["steam", "wind"]


def test_create_passes_arguments_and_keeps_other_defaults(engines: Registry[Any]) -> None:
    engine = engines.create("steam", "copper", pressure=4.0)
    assert (engine.boiler, engine.pressure, engine.valves) == ("copper", 4.0, (1, 2))


def test_options_are_the_arguments_with_a_default(engines: Registry[Any]) -> None:
    assert engines.options("steam") == {"pressure": 2.5, "valves": (1, 2)}
    assert engines.options("wind") == {}


def test_an_unknown_name_names_the_nearest(engines: Registry[Any]) -> None:
    with pytest.raises(UserError, match=r"There is no engine 'stem'\. Did you mean 'steam'\?"):
        engines.create("stem")


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
