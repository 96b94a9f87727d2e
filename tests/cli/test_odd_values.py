"""Odd values through the real tool: one line on stderr that names the key, exit code 2, nothing left behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Commands with little to import; the others take the same door, and test_keys.py tries every key of all of them.
LINES = [
    *(f"infer x.png threads={value}" for value in ("-1", "0", "1e9", "nan", "100000", "[]", "many", "true", "''")),
    *(f"infer x.png min_score={value}" for value in ("-1", "2", "1e30", "nan", "null", "[0.5]", "high", "true", "''")),
    *(f"infer x.png batch_size={value}" for value in ("0", "-3", "1.5", "nan", "1e30", "[1]", "some")),
    *(f"infer x.png runtime={value}" for value in ("null", "5", "[torch]", "''", "onnx", "true")),
    *(f"infer x.png output_stride={value}" for value in ("4", "8.0", "nan", "-8", "deep")),
    *(f"infer x.png save_images={value}" for value in ("1", "null", "maybe", "[true]")),
    *(f"infer x.png output={value}" for value in ("''", "[a]", "x" * 256)),
    *(f"paper {pair}" for pair in ("runs=null", "output=''", "tables=[]", "tables=[[a]]")),
    *(f"demo {pair}" for pair in ("tasks=[]", "tasks=[painting]", "tasks=[detection,detection]", "run_dir=null")),
    *(f"push repository={name}" for name in ("../x", "me/../x", "me", "''", "null", "/etc/passwd", "[me/x]")),
    "infer x.png hydra.verbose=[1]",
    *(f"convert output=o source={source}" for source in ("null", "''", "[a]")),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("line", LINES)
def test_an_odd_value_is_one_line_of_the_real_tool(root: Path, tmp_path: Path, line: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mbv2kit", *line.split()],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    key = line.split()[-1].partition("=")[0]
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {key} must be ")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
