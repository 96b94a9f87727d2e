"""Measures the structure of the package: its parts, the imports between them, and where a model is described.

python docs/scripts/structure.py [FOLDER]

FOLDER holds the package ``mbv2kit``; by default this checkout. The table is Markdown, as docs/architecture.md shows it.
"""

import ast
import re
import sys
from collections.abc import Iterable
from itertools import permutations
from pathlib import Path

import grimp

PACKAGE = "mbv2kit"
# Names that classes for a whole model had or have: what is loaded, run, wrapped or asked for predictions.
MODEL_CLASSES = re.compile(
    r"VisionModel|ModelWrapper|MultiScaleFlip|Split(Model|Session)|ExportNetwork|(Torch|Model)?Session|SeesTensors|"
    r"TensorModel|PictureModel|ImageModel|DeployedModel|Loaded|Predictor"
)


def measure(root: Path) -> dict[str, int]:
    """Returns counts for the package in ``root``, by what they count."""
    folder = root / PACKAGE
    files = [path for path in folder.rglob("*.py") if "lab" not in path.relative_to(folder).parts]
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    parts = sorted({path.relative_to(folder).parts[0].removesuffix(".py") for path in folder.rglob("*.py")})
    loose = [path.stem for path in folder.glob("*.py") if not path.stem.startswith("__")]
    parts = [part for part in parts if not part.startswith("__")]
    arrows = imports_between(root, parts)
    return {
        "parts of the package (folders and loose modules)": len(parts),
        "loose modules": len(loose),
        "imports between parts": len(arrows),
        "pairs of parts that import each other": len({frozenset(pair) for pair in arrows if pair[::-1] in arrows}),
        "lines of Python without lab/": sum(text.count("\n") for text in texts.values()),
        "lines of Python in lab/": sum(
            path.read_text(encoding="utf-8").count("\n") for path in (folder / "lab").rglob("*.py")
        ),
        "classes that mean a model": len(model_classes(texts.values())),
        "places with `isinstance(head, Head)`": sum(text.count("isinstance(head, Head)") for text in texts.values()),
        "modules that name the file `model.json`": sum(
            bool(re.search(r"[\"']model\.json[\"']", text)) for text in texts.values()
        ),
    }


def imports_between(root: Path, parts: list[str]) -> set[tuple[str, str]]:
    """Returns the pairs of parts of which the first imports the second."""
    sys.path.insert(0, str(root))
    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    names = {part: f"{PACKAGE}.{part}" for part in parts}
    return {
        (one, other)
        for one, other in permutations(parts, 2)
        if graph.direct_import_exists(importer=names[one], imported=names[other], as_packages=True)
    }


def model_classes(texts: Iterable[str]) -> set[str]:
    """Returns the names of the classes in ``texts`` that stand for a whole model."""
    return {
        node.name
        for text in texts
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ClassDef) and MODEL_CLASSES.fullmatch(node.name)
    }


def main() -> None:
    """Prints the counts as a table."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[2]).resolve()
    print("| what | count |\n| --- | ---: |")
    for what, count in measure(root).items():
        print(f"| {what} | {count:,} |")


if __name__ == "__main__":
    main()
