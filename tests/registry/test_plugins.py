"""Plugins are imported because a user installed or named them, never because a file names them."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mbv2kit.cli.plugins import load_plugins
from mbv2kit.errors import UserError
from mbv2kit.registry import Registry, plugins
from mbv2kit.registry.plugins import check_plugins, load_installed, load_named, package_of

Write = Callable[..., None]

TREES: Registry[object] = Registry("tree", "mbv2kit.registry")


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Starts every test in a folder of its own, without plugins, and forgets those that it imports."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugins, "_packages", set())
    monkeypatch.setattr(plugins, "_installed_are_loaded", False)
    monkeypatch.setattr(TREES, "_builders", {})
    monkeypatch.setattr(TREES, "_imported", False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "modules", dict(sys.modules))


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a module that registers a tree under its own name."""

    def module(name: str, tree: str | None = None) -> None:
        (tmp_path / f"{name}.py").write_text(
            f"from {__name__} import TREES\n@TREES.register('{tree or name}')\nclass Tree: ...\n"
        )

    return module


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes a module a plugin that is installed with an entry point."""
    monkeypatch.syspath_prepend(tmp_path)

    def entry(name: str) -> None:
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[mbv2kit.plugins]\n{name} = {name}\n")

    return entry


def test_a_named_plugin_of_the_current_folder_registers_its_parts(write: Write) -> None:
    write("birch")
    load_named(["birch"])
    assert TREES.names() == ["birch"]
    assert TREES.package("birch") == "birch"
    check_plugins(["birch"], "The model")


def test_an_installed_plugin_is_imported_when_names_are_asked_for(write: Write, install: Write) -> None:
    write("beech")
    install("beech")
    assert "beech" not in sys.modules
    assert TREES.names() == ["beech"]


def test_an_installed_plugin_is_imported_when_a_model_needs_it(write: Write, install: Write) -> None:
    write("beech")
    install("beech")
    check_plugins(["beech"], "The model")
    assert TREES.get("beech").__module__ == "beech"


def test_what_a_file_names_is_not_imported(write: Write) -> None:
    write("oak")
    sys.path.insert(0, "")
    with pytest.raises(UserError, match=r"^models/tree needs the plugin oak, .* plugins=\[oak\]\.$"):
        check_plugins(["oak", "teak"], "models/tree")
    assert "oak" not in sys.modules


def test_a_plugin_that_cannot_be_imported_is_a_sentence(tmp_path: Path, write: Write, install: Write) -> None:
    with pytest.raises(UserError, match=r"plugins: 'elm' cannot be imported \(ModuleNotFoundError: No module named"):
        load_named(["elm"])
    (tmp_path / "ash.py").write_text("1 / 0\n")
    with pytest.raises(UserError, match=r"plugins: 'ash' cannot be imported \(ZeroDivisionError: division by zero\)"):
        load_named(["ash"])
    install("ash")
    with pytest.raises(UserError, match=r"The plugin ash cannot be imported \(ZeroDivisionError.*mend or uninstall it"):
        load_installed()


def test_two_packages_with_one_name_are_a_sentence_that_names_both(write: Write) -> None:
    write("lime")
    write("linden", tree="lime")
    message = r"plugins: 'linden' cannot be imported .*tree 'lime' is registered twice: .*lime\.Tree.*linden\.Tree"
    with pytest.raises(UserError, match=message):
        load_named(["lime", "linden"])


def test_a_part_of_a_script_is_known_by_the_name_of_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    class Part: ...

    monkeypatch.setattr(sys.modules["__main__"], "__file__", "/somewhere/grow.py", raising=False)
    monkeypatch.setattr(Part, "__module__", "__main__")
    assert package_of(Part) == "grow"
    assert package_of(Registry) is None


@pytest.mark.parametrize(
    "overrides",
    [
        ["plugins=[birch,oak]"],
        ["experiment=./trees.yaml"],
        ["plugins=[birch]", "experiment=trees.yaml,shapes/detection"],
        ["experiment=wood"],
    ],
)
def test_the_command_line_and_recipes_name_plugins(tmp_path: Path, write: Write, overrides: list[str]) -> None:
    write("birch")
    write("oak")
    (tmp_path / "trees.yaml").write_text("plugins: [birch, oak]\n")
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "wood.yaml").write_text("# @package _global_\nplugins: [birch, oak]\n")
    load_plugins(overrides, config_dir=str(tmp_path))
    assert TREES.names() == ["birch", "oak"]


@pytest.mark.parametrize("line", ["plugins=birch", "plugins=[birch", "plugins=null", "experiment=[1", "experiment=no"])
def test_other_mistakes_are_left_to_the_check_of_the_overrides(write: Write, line: str) -> None:
    write("birch")
    load_plugins([line])
    assert "birch" not in sys.modules
