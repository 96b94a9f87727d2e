"""A run from a faulty server that is stopped and killed ends as one from the folder that was not."""

import signal
from pathlib import Path

import pytest

from tests.data.shards.kills import wrong


@pytest.mark.slow
def test_every_image_counts_once_an_epoch_after_three_kills(tmp_path: Path) -> None:
    stops = [(7, signal.SIGTERM), (8, signal.SIGKILL), (6, signal.SIGTERM)]
    assert wrong("classification", tmp_path, stops) is None
