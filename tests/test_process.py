import os
import subprocess
import sys
from pathlib import Path

import pytest

from mbv2kit.process import THREAD_SETTINGS, configure_threads, processor_name, usable_cores

Files = dict[str, str]


def siblings(*lists: str) -> Files:
    """What Linux says about the hardware threads of each core, with threads numbered from 0 in that order."""
    return {
        f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": f"{text}\n" for cpu, text in enumerate(lists)
    }


def machine(root: Path, files: Files) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


# Four cores of two hardware threads each.
EIGHT = siblings(*["0,4", "1,5", "2,6", "3,7"] * 2)


@pytest.mark.parametrize(
    ("cpus", "cores"), [(range(8), 4), ([0, 4], 1), ([0, 1], 2), ([4, 5, 6], 3), ([7], 1), ([0, 1, 2, 4, 5], 3)]
)
def test_two_hardware_threads_of_one_core_count_once(tmp_path: Path, cpus: list[int], cores: int) -> None:
    assert usable_cores(cpus, machine(tmp_path, EIGHT)) == cores


def test_each_cpu_is_a_core_where_the_system_does_not_say(tmp_path: Path) -> None:
    assert usable_cores(range(6), tmp_path) == 6
    assert usable_cores([], tmp_path) == 1


@pytest.mark.parametrize(
    ("cpu_max", "cores"),
    [("200000 100000", 2), ("150000 100000", 2), ("1000 100000", 1), ("max 100000", 4), ("900000 100000", 4), ("", 4)],
)
def test_a_container_is_limited_by_its_own_group(tmp_path: Path, cpu_max: str, cores: int) -> None:
    files = EIGHT | {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": cpu_max}
    assert usable_cores(range(8), machine(tmp_path, files)) == cores


def test_the_narrowest_of_a_group_and_those_above_it_counts(tmp_path: Path) -> None:
    files = EIGHT | {
        "proc/self/cgroup": "0::/jobs.slice/job.scope\n",
        "sys/fs/cgroup/jobs.slice/cpu.max": "300000 100000\n",
        "sys/fs/cgroup/jobs.slice/job.scope/cpu.max": "max 100000\n",
        "sys/fs/cgroup/other.slice/cpu.max": "100000 100000\n",
    }
    assert usable_cores(range(8), machine(tmp_path, files)) == 3


@pytest.mark.parametrize(("quota", "cores"), [("200000", 2), ("250000", 3), ("-1", 4)])
@pytest.mark.parametrize("folder", ["", "docker/1234"], ids=["inside", "outside"])
def test_the_first_version_of_control_groups_is_known(tmp_path: Path, folder: str, quota: str, cores: int) -> None:
    files = EIGHT | {
        "proc/self/cgroup": "5:memory:/docker/1234\n4:cpu,cpuacct:/docker/1234\n1:name=systemd:/\n0::/\n",
        f"sys/fs/cgroup/cpu/{folder}/cpu.cfs_quota_us": f"{quota}\n",
        f"sys/fs/cgroup/cpu/{folder}/cpu.cfs_period_us": "100000\n",
    }
    assert usable_cores(range(8), machine(tmp_path, files)) == cores


def test_a_group_that_a_container_cannot_see_is_no_error(tmp_path: Path) -> None:
    files = EIGHT | {"proc/self/cgroup": "0::/../../other\n", "sys/fs/cgroup/cpu.max": "100000 100000\n"}
    assert usable_cores(range(8), machine(tmp_path, files)) == 1


def test_this_machine_has_a_core() -> None:
    assert usable_cores() >= 1


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_the_users_choice_of_how_threads_wait_is_kept_whole(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for setting in THREAD_SETTINGS:
        monkeypatch.delenv(setting, raising=False)
    monkeypatch.setenv(name, "theirs")
    configure_threads()
    found = {setting: os.environ.get(setting) for setting in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    assert found == {"OMP_WAIT_POLICY": None, "GOMP_SPINCOUNT": None, name: "theirs"}


@pytest.mark.parametrize(("given", "threads"), [({}, "1"), ({"OPENCV_FOR_THREADS_NUM": "2"}, "2")])
def test_a_tool_runs_opencv_on_one_thread_unless_told_otherwise(given: dict[str, str], threads: str) -> None:
    program = (
        "from mbv2kit.process import configure_threads; configure_threads(); import cv2; print(cv2.getNumThreads())"
    )
    plain = {name: value for name, value in os.environ.items() if name not in THREAD_SETTINGS}
    done = subprocess.run(
        [sys.executable, "-c", program], env=plain | given, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == threads


def test_the_name_of_the_processor_is_that_of_linux_or_the_systems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "processor\t: 0\nmodel\t\t: 97\nmodel name\t: Abacus 9000 (2 beads)\nflags\t\t: fpu\n"
    assert processor_name(machine(tmp_path, {"proc/cpuinfo": 2 * lines})) == "Abacus 9000 (2 beads)"
    monkeypatch.setattr("platform.processor", lambda: "arm")
    assert processor_name(tmp_path / "nowhere") == "arm"
