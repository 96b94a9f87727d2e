"""`mbv2kit infer` on odd images, names, outputs and networks: each is named, and the other images get their lines."""

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from onnx import NodeProto, TensorProto, helper
from PIL import Image as PillowImage

from tests.inference.networks import save_shares

Done = subprocess.CompletedProcess[str]


def start(root: Path, here: Path, *arguments: str, most_bytes: int | None = None) -> "subprocess.Popen[str]":
    """Starts inference; ``most_bytes`` is the size at which a file cannot grow, as on a full disk."""

    def limit() -> None:
        if most_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    command = [sys.executable, str(root / "tools" / "infer.py"), *arguments, "runtime=onnxruntime", "threads=2"]
    return subprocess.Popen(
        command,
        cwd=here,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(root)},
        preexec_fn=limit,
    )


def infer(root: Path, here: Path, *arguments: str, most_bytes: int | None = None) -> Done:
    process = start(root, here, *arguments, most_bytes=most_bytes)
    out, err = process.communicate()
    assert "Traceback" not in err, err
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def lines(output: Path) -> list[dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    text = (output / "predictions.jsonl").read_text()
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def save(path: Path, color: str = "red", size: tuple[int, int] = (16, 12)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PillowImage.new("RGB", size, color).save(path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_shares(tmp_path_factory.mktemp("networks") / "model", resize="crop"))


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder in which ``images/dog.jpg`` and ``masks/dog.png`` are the user's own."""
    save(tmp_path / "images" / "dog.jpg")
    save(tmp_path / "masks" / "dog.png", "blue")
    return tmp_path


@pytest.mark.parametrize("scanned", ["images", "masks/", "images/dog.jpg", "images/*.jpg", "elsewhere.jpg"])
def test_no_file_of_the_user_is_overwritten(root: Path, here: Path, model: str, scanned: str) -> None:
    save(here / "elsewhere.jpg")
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    done = infer(root, here, scanned, f"checkpoint={model}", "output=.")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: output=. holds ")
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


def test_a_second_inference_replaces_the_first_and_nothing_else(root: Path, here: Path, model: str) -> None:
    save(here / "images" / "cat.jpg")
    keys = (f"checkpoint={model}", "output=out")
    assert infer(root, here, "images", *keys).returncode == 0
    assert sorted(path.name for path in (here / "out" / "images").iterdir()) == ["cat.jpg", "dog.jpg"]
    # Its own output lies in the folder that is scanned, as the folder of a third inference may.
    second = infer(root, here, ".", *keys)
    assert second.returncode == 0, second.stderr
    assert "Left out: 2 files that an earlier inference wrote" in second.stdout
    assert {line["image"]: line["drawing"] for line in lines(here / "out")} == {
        name: f"images/{name[:-4]}.jpg" for name in ("images/cat.jpg", "images/dog.jpg", "masks/dog.png")
    }
    drawn = {path.relative_to(here / "out").as_posix() for path in (here / "out" / "images").rglob("*.jpg")}
    assert drawn == {line["drawing"] for line in lines(here / "out")}

    inside = infer(root, here, "out/images", *keys)
    assert inside.returncode == 2
    assert "holds the image out/images/images/cat.jpg, which is to be read" in inside.stderr
    (here / "out" / "images" / "mine.txt").write_text("mine")
    assert "output=out holds images/mine.txt, which inference did not make" in infer(root, here, "masks", *keys).stderr
    assert (here / "out" / "images" / "mine.txt").read_text() == "mine"
    assert len(lines(here / "out")) == 3


def test_links_in_an_output_are_not_followed(root: Path, here: Path, model: str) -> None:
    keys = (f"checkpoint={model}", "output=out")
    assert infer(root, here, "masks", *keys).returncode == 0
    (here / "out" / "images" / "dog.jpg").unlink()
    (here / "out" / "images").rmdir()
    (here / "out" / "images").symlink_to(here / "images")
    mine = (here / "images" / "dog.jpg").read_bytes()
    assert "output=out holds images, which inference did not make" in infer(root, here, "masks", *keys).stderr
    assert (here / "images" / "dog.jpg").read_bytes() == mine


def test_inferences_at_the_same_time_keep_their_lines(root: Path, here: Path, model: str) -> None:
    processes = [start(root, here, "images", f"checkpoint={model}") for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    for process in processes:
        process.communicate()
    folders = list((here / "outputs" / "infer").iterdir())
    assert [len(lines(folder)) for folder in folders] == [1] * 4


# Runs a file and leaves the peak of this process alone, in kilobytes; what the kernel counts for a child begins with
# the memory of its parent.
_PEAK = """
import re, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    status = open("/proc/self/status").read()
    open("peak", "w").write(re.search(r"VmHWM:\\s+(\\d+)", status)[1])
"""


def test_a_long_thin_image_costs_little_memory(root: Path, here: Path, model: str) -> None:
    for name, size in {"1_row": (65_000, 1), "2_column": (1, 65_501), "3_plain": (16, 12)}.items():
        save(here / "thin" / f"{name}.png", size=size)
    keys = ("thin", f"checkpoint={model}", "output=out", "runtime=onnxruntime", "threads=2")
    command = [sys.executable, "-c", _PEAK, str(root / "tools" / "infer.py"), *keys]
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert [line["classes"][0]["label"] for line in lines(here / "out")] == ["red"] * 3
    assert [line.get("drawing") for line in lines(here / "out")] == ["images/1_row.jpg", None, "images/3_plain.jpg"]
    assert "Not drawn: a JPEG has at most 65,500 pixels a side" in lines(here / "out")[1]["note"]
    assert "1 of them not drawn" in done.stdout
    assert int((here / "peak").read_text()) < 1_000_000, "in kilobytes"


def test_unreadable_images_are_named_on_the_screen(root: Path, here: Path, model: str) -> None:
    for i in range(7):
        (here / "images" / f"broken_{i}.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    (here / "images" / "photo.raw").touch()
    (here / "images" / "notes.txt").touch()
    done = infer(root, here, "images", f"checkpoint={model}", "output=out")
    assert done.returncode == 1
    told = done.stderr.splitlines()
    assert [line.split(":")[1] for line in told[:-1]] == [f" images/broken_{i}.png" for i in range(5)]
    assert told[-1] == "error: 2 more images have no prediction; see predictions.jsonl"
    assert ".txt 1" in done.stdout
    assert [line["classes"][0]["label"] for line in lines(here / "out") if "error" not in line] == ["red"]


def test_names_that_are_odd_but_allowed(root: Path, here: Path, model: str) -> None:
    names = ["x" * 251 + ".jpg", "\x1b[31mred\x07.png", "\udcff.jpg", "a\nb.png", "[bold].png", "é\u202e.png"]
    for name in names:
        save(here / "odd" / name)
    (here / "odd" / "\x1b[5m.gif").touch()
    done = infer(root, here, "odd", f"checkpoint={model}", "output=out")
    assert done.returncode == 1
    assert not set(done.stderr + done.stdout) & set("\x1b\x07\u202e")
    assert "\\x1b[5m.gif" in done.stderr
    written = lines(here / "out")
    assert {Path(line["image"]).name for line in written if "error" not in line} == set(names)
    assert all((here / "out" / line["drawing"]).is_file() for line in written if "error" not in line)


@pytest.mark.parametrize(
    ("nodes", "options", "message"),
    [
        (
            [helper.make_node("Constant", [], ["two"], value_ints=[2]), helper.make_node("Concat", [], [])],
            {},
            "is not a network that ONNX Runtime can read",
        ),
        ([], {"side": 9}, "fails in runtime=onnxruntime on an input of 1 x 8 x 8 x 3 uint8"),
        ([], {"names": ("red", "green")}, "output 'probabilities' must be 1 x 2, got 1 x 3"),
        (
            [helper.make_node("Transpose", ["shares"], ["probabilities"], perm=[1, 0])],
            {},
            "output 'probabilities' must be 1 x 3, got 3 x 1",
        ),
    ],
)
def test_a_network_that_is_not_what_its_model_promises(
    root: Path, here: Path, nodes: list[NodeProto], options: dict[str, Any], message: str
) -> None:
    folder = save_shares(here / "model", *nodes, **options)
    done = infer(root, here, "images", f"checkpoint={folder}", "output=out")
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_network_without_numbers_is_a_sentence_and_no_json(root: Path, here: Path, value: str) -> None:
    constant = helper.make_tensor("value", TensorProto.FLOAT, [1], [float(value)])
    nodes = [
        helper.make_node("Constant", [], ["odd"], value=constant),
        helper.make_node("Add", ["shares", "odd"], ["probabilities"]),
    ]
    folder = save_shares(here / "model", *nodes)
    done = infer(root, here, "images", f"checkpoint={folder}", "output=out")
    assert done.returncode == 1
    assert "images/dog.jpg: the network's outputs are not numbers (NaN or infinite)" in done.stderr
    (line,) = lines(here / "out")
    assert line.keys() == {"image", "error"}


def test_an_output_that_cannot_be_used_is_a_sentence(root: Path, here: Path, model: str) -> None:
    (here / "file").touch()
    for output in ("file", "file/below", "/proc/none"):
        done = infer(root, here, "images", f"checkpoint={model}", f"output={output}")
        assert done.returncode == 2
        assert re.match(rf"error: (output=)?{output} (is a file|cannot be written)", done.stderr)
        assert done.stderr.count("\n") == 1


def test_a_full_disk_is_a_sentence_and_what_was_done_stays(root: Path, here: Path, model: str) -> None:
    noise = PillowImage.effect_noise((400, 400), 200)
    noise.save(here / "images" / "noise.png")
    done = infer(root, here, "images", f"checkpoint={model}", "output=out", most_bytes=40_000)
    assert done.returncode == 2
    assert done.stderr == (
        "error: out/images/noise.jpg cannot be written (File too large); make room, or name a folder on another disk.\n"
    )
    (line,) = lines(here / "out")
    assert line["image"] == "images/dog.jpg"
    assert (here / "out" / line["drawing"]).is_file()
    # The same command goes through once there is room.
    assert infer(root, here, "images", f"checkpoint={model}", "output=out").returncode == 0
    assert len(lines(here / "out")) == 2
