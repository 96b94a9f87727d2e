import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mbv2kit.errors import UserError
from mbv2kit.files.caches import cache_folder
from mbv2kit.imaging.postprocess import Outputs
from mbv2kit.inference.runtimes import RUNTIMES, RuntimeName
from mbv2kit.inference.runtimes.choice import Candidate, candidates, choose
from mbv2kit.models.exports import Export
from mbv2kit.models.session import Session

ONNX = Export(
    file="model.onnx",
    format="onnx",
    precision="fp32",
    size=(8, 6),
    batch=None,
    outputs=("probabilities",),
    nms_options={},
    sha256="a",
)
OPENVINO = replace(ONNX, file="model.xml", format="openvino", sha256="b")


class Machine:
    """Runtimes that take a known time, on a clock that only they move on."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds
        self.now = 0.0
        self.opened: list[str] = []

    def clock(self) -> float:
        return self.now

    def open(self, runtime: RuntimeName, folder: Path, export: Export, threads: int) -> Session:
        self.opened.append(runtime)
        if self.seconds[runtime] < 0:
            raise UserError(f"{runtime} is broken.")

        def see(images: NDArray[np.uint8]) -> Outputs:
            assert images.shape == (1, 8, 6, 3)
            assert images.dtype == np.uint8
            self.now += self.seconds[runtime]
            return {}

        return see


FOUND = [Candidate("onnxruntime", ONNX, 2, 1), Candidate("openvino", OPENVINO, 2, 1)]


def test_the_fastest_is_chosen_with_a_reason(tmp_path: Path) -> None:
    machine = Machine({"onnxruntime": 0.004, "openvino": 0.0025})
    choice = choose(tmp_path, FOUND, cache=tmp_path / "cache.json", opener=machine.open, clock=machine.clock)
    assert choice.candidate == FOUND[1]
    assert choice.reason == "2.50 ms an image here, onnxruntime on model.onnx 4.00; timed now"
    # Two seconds for both together.
    assert 2 <= machine.now < 2.1


def test_the_choice_is_kept(tmp_path: Path) -> None:
    cache = tmp_path / "a" / "cache.json"
    machine = Machine({"onnxruntime": 0.004, "openvino": 0.0025})
    for _ in range(2):
        choice = choose(tmp_path, FOUND, cache=cache, opener=machine.open, clock=machine.clock)
    assert choice.candidate == FOUND[1]
    assert choice.reason.endswith("as timed before")
    assert machine.opened == ["onnxruntime", "openvino"]


@pytest.mark.parametrize("change", ["threads", "weights", "version"])
def test_it_is_timed_anew_when_something_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    cache = tmp_path / "cache.json"
    machine = Machine({"onnxruntime": 0.004, "openvino": 0.0025})
    choose(tmp_path, FOUND, cache=cache, opener=machine.open, clock=machine.clock)
    found = FOUND
    if change == "threads":
        found = [replace(candidate, threads=1) for candidate in FOUND]
    elif change == "weights":
        found = [FOUND[0], Candidate("openvino", replace(OPENVINO, sha256="c"), 2, 1)]
    else:
        monkeypatch.setitem(RUNTIMES, "openvino", replace(RUNTIMES["openvino"], distribution="numpy"))
    choose(tmp_path, found, cache=cache, opener=machine.open, clock=machine.clock)
    assert len(machine.opened) == 4
    assert len(json.loads(cache.read_text())) == 2


def test_a_runtime_that_fails_is_passed_over(tmp_path: Path) -> None:
    machine = Machine({"onnxruntime": 0.004, "openvino": -1})
    choice = choose(tmp_path, FOUND, cache=tmp_path / "c.json", opener=machine.open, clock=machine.clock)
    assert choice.candidate == FOUND[0]
    machine.seconds["onnxruntime"] = -1
    with pytest.raises(UserError, match=r"No runtime can run the model .*: onnxruntime is broken\. openvino is broken"):
        choose(tmp_path, FOUND, cache=tmp_path / "d.json", opener=machine.open, clock=machine.clock)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"x": 3}'])
def test_a_damaged_cache_is_made_anew(tmp_path: Path, content: str) -> None:
    cache = tmp_path / "cache.json"
    cache.write_text(content)
    machine = Machine({"onnxruntime": 0.004, "openvino": 0.0025})
    assert choose(tmp_path, FOUND, cache=cache, opener=machine.open, clock=machine.clock).candidate == FOUND[1]
    assert len(json.loads(cache.read_text())) >= 1


@pytest.mark.parametrize("odd", [None, {}, [1.0], "1", 10**400, True])
def test_an_odd_time_in_the_cache_is_measured_anew(tmp_path: Path, odd: object) -> None:
    cache = tmp_path / "cache.json"
    machine = Machine({"onnxruntime": 0.004, "openvino": 0.0025})
    first = choose(tmp_path, FOUND, cache=cache, opener=machine.open, clock=machine.clock)
    (times,) = json.loads(cache.read_text()).items()
    cache.write_text(json.dumps({times[0]: {**times[1], FOUND[0].name: odd}}))
    again = choose(tmp_path, FOUND, cache=cache, opener=machine.open, clock=machine.clock)
    assert again == first


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    machine = Machine({"onnxruntime": 0.004, "openvino": 0.0025})
    choice = choose(tmp_path, FOUND, cache=blocked / "c.json", opener=machine.open, clock=machine.clock)
    assert choice.candidate == FOUND[1]


def test_one_candidate_is_not_timed(tmp_path: Path) -> None:
    machine = Machine({})
    choice = choose(tmp_path, FOUND[:1], cache=tmp_path / "c.json", opener=machine.open, clock=machine.clock)
    assert choice.candidate == FOUND[0]
    assert not machine.opened


def test_each_runtime_runs_the_file_of_its_own_format(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"onnxruntime": "1", "openvino": "2", "litert": None, "executorch": None}
    monkeypatch.setattr(
        "mbv2kit.inference.runtimes.base.Runtime.version",
        property(lambda self: installed.get(next(name for name, each in RUNTIMES.items() if each is self))),
    )
    assert candidates([ONNX, OPENVINO], cores=2) == FOUND
    assert candidates([ONNX], cores=2) == [FOUND[0], Candidate("openvino", ONNX, 2, 1)]
    assert candidates([OPENVINO], cores=2) == [FOUND[1]]
    assert candidates([ONNX, OPENVINO], "onnxruntime", cores=2) == [FOUND[0]]
    assert candidates([OPENVINO], "litert") == []


@pytest.mark.parametrize(
    ("cores", "workers", "parallel", "one_by_one"), [(4, 1, (4, 1), 4), (4, 2, (2, 2), 4), (2, 3, (1, 3), 2)]
)
def test_cores_are_shared_unless_one_session_waits_for_the_other(
    monkeypatch: pytest.MonkeyPatch, cores: int, workers: int, parallel: tuple[int, int], one_by_one: int
) -> None:
    monkeypatch.setattr("mbv2kit.inference.runtimes.base.Runtime.version", "1")
    files = [ONNX, replace(ONNX, file="model.pte", format="executorch")]
    found = {each.runtime: (each.threads, each.at_a_time) for each in candidates(files, cores=cores, workers=workers)}
    assert found == {"onnxruntime": parallel, "openvino": parallel, "executorch": (one_by_one, 1)}


def test_the_throughput_of_several_sessions_counts(tmp_path: Path) -> None:
    machine = Machine({"onnxruntime": 0.004, "openvino": 0.0025})
    found = [replace(FOUND[0], threads=1, at_a_time=2), FOUND[1]]
    choice = choose(tmp_path, found, cache=tmp_path / "cache.json", opener=machine.open, clock=machine.clock)
    assert choice.reason == "2.00 ms an image here, openvino on model.xml 2.50; timed now"


def test_the_cache_lies_where_caches_lie(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MBV2KIT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "mbv2kit"
    monkeypatch.setenv("MBV2KIT_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
