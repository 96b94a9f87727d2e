"""A folder is held by one process, until it ends in any way."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from mbv2kit.models.folder_lock import held

HOLD = """
import os, sys, time
from pathlib import Path
from mbv2kit.models.folder_lock import held
read, write = os.pipe()
with held(Path(sys.argv[1])) as mine:
    if os.fork() == 0:
        os.write(write, b"x")
        time.sleep(60)
    os.read(read, 1)
    print(mine, flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_held_by_one_and_free_when_its_owner_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0
    ) as owner:
        try:
            assert owner.stdout is not None
            assert owner.stdout.readline() == b"True\n"
            with held(tmp_path) as mine:
                assert not mine
            owner.kill()
            owner.wait()
            # Its child lives on, and holds nothing.
            with held(tmp_path) as mine:
                assert mine
                with held(tmp_path) as again:
                    assert not again
        finally:
            os.killpg(owner.pid, signal.SIGKILL)
    assert list(tmp_path.iterdir()) == []
