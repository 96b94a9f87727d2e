"""The free memory of a process, its limit, and the sentence where it is not enough."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mbv2kit.errors import UserError
from mbv2kit.memory import free_memory, memory_errors_told

MEMINFO = "MemTotal:       16000 kB\nMemFree:         1000 kB\nMemAvailable:    9000 kB\nSwapFree:         500 kB\n"
SECOND = {"proc/self/cgroup": "0::/jobs/one\n", "sys/fs/cgroup/jobs/one/memory.current": "3000000\n"}


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, 9500 * 1024),
        (SECOND | {"sys/fs/cgroup/jobs/one/memory.max": "max\n"}, 9500 * 1024),
        (SECOND | {"sys/fs/cgroup/jobs/one/memory.max": "5000000\n"}, 2_000_000),
        (
            SECOND
            | {
                "sys/fs/cgroup/jobs/one/memory.max": "5000000\n",
                "sys/fs/cgroup/jobs/one/memory.stat": "anon 7\nactive_file 9\ninactive_file 1000000\n",
            },
            3_000_000,
        ),
        (SECOND | {"sys/fs/cgroup/jobs/one/memory.max": "2000000\n"}, 0),
        (SECOND | {"sys/fs/cgroup/jobs/memory.max": "10", "sys/fs/cgroup/jobs/memory.current": "4"}, 6),
        (
            {
                "proc/self/cgroup": "5:memory:/one\n1:name=systemd:/\n",
                "sys/fs/cgroup/memory/one/memory.limit_in_bytes": "5000000\n",
                "sys/fs/cgroup/memory/one/memory.usage_in_bytes": "4000000\n",
                "sys/fs/cgroup/memory/one/memory.stat": "inactive_file 1\ntotal_inactive_file 100\n",
            },
            1_000_100,
        ),
    ],
)
def test_free_memory_is_what_the_machine_and_the_groups_leave(tmp_path: Path, files: dict[str, str], free: int) -> None:
    for name, text in {"proc/meminfo": MEMINFO, **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert free_memory(tmp_path) == free


def test_a_system_that_does_not_say_has_no_free_memory_known(tmp_path: Path) -> None:
    assert free_memory(tmp_path) is None


LIMITED = """
import sys
import numpy as np
from mbv2kit.memory import NEVER_TOUCHED, free_memory, limited_memory
free = free_memory()
with limited_memory():
    held = np.empty(free // 4, np.uint8)
    assert free_memory() < 0.76 * free + NEVER_TOUCHED
    try:
        np.empty(free + NEVER_TOUCHED, np.uint8)
    except MemoryError:
        print("not enough")
del held
np.empty(free + NEVER_TOUCHED, np.uint8)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux promises more memory than there is")
def test_a_process_takes_no_more_than_is_free(root: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED], cwd=root, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("not enough\n", "")


def test_memory_that_is_not_enough_is_a_sentence() -> None:
    torch_told = r"There is not enough memory \(.*allocate memory.*\); use a smaller input"
    with pytest.raises(UserError, match=torch_told), memory_errors_told():
        torch.empty(2**60, dtype=torch.uint8)
    with pytest.raises(UserError, match=r"There is not enough memory \(MemoryError\)"), memory_errors_told():
        raise MemoryError


def test_other_errors_stay() -> None:
    with pytest.raises(RuntimeError, match="shapes differ"), memory_errors_told():
        raise RuntimeError("shapes differ")
    with pytest.raises(UserError, match=r"^out of memory, says the user$"), memory_errors_told():
        raise UserError("out of memory, says the user")
