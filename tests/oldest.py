"""Prints a constraints file for pip: the oldest version of each package that pyproject.toml admits.

python tests/oldest.py > constraints.txt
"""

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def constraints() -> list[str]:
    """Returns a line ``NAME==VERSION`` for every requirement with a lower bound, of every extra."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    bounds = (re.match(r"([\w-]+)(?:\[[\w,-]+\])?>=([\w.]+)", requirement) for group in groups for requirement in group)
    return sorted({f"{bound[1]}=={bound[2]}" for bound in bounds if bound})


if __name__ == "__main__":
    print("\n".join(constraints()))
