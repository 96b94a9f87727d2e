"""Writes all shards of a data set in several processes, and goes on where an earlier run was killed."""

import json
import logging
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.progress import track
from torch.utils.data import Dataset

from mbv2kit.data.joined import Joined
from mbv2kit.data.sharding.plan import Plan, Shard, plan_shards
from mbv2kit.data.sharding.shard import PART, write_shard
from mbv2kit.data.sources.shards.schema import FORMAT, INDEX, METADATA, SCHEMA
from mbv2kit.data.transport import naming
from mbv2kit.data.workers import WorkerLoader, worker_deaths_told
from mbv2kit.errors import UserError
from mbv2kit.files.disk_errors import disk_errors_told
from mbv2kit.files.writing import open_atomically, remove_unfinished, write_atomically
from mbv2kit.models.folder_lock import OWNER, held

_log = logging.getLogger(__name__)

SUMS = "SHA256SUMS"
# Parts of the index of shards that are complete, until all are.
_PARTS = ".parts"
_PLAN = "plan"
_ROWS_OF_GROUP = 65_536


@dataclass(frozen=True, slots=True)
class Written:
    """What a call has written.

    Attributes:
        images: Number of images in each split.
        shards: Number of tars of each split.
        new: Number of tars that this call wrote.
        size: Bytes of all tars.
    """

    images: Mapping[str, int]
    shards: Mapping[str, int]
    new: int
    size: int


def make_shards(
    splits: Mapping[str, Joined],
    output: Path,
    *,
    shuffled: Sequence[str],
    seed: int,
    images_per_shard: int,
    workers: int,
) -> Written:
    """Writes the images of some splits and their ground truth as tars, an index and the SHA-256 of each tar.

    A call that is killed loses the shards that are not complete; the same call goes on with those. The result is the
    same to the bit, whatever the number of processes and of calls.

    Args:
        splits: The images of each split, each from one data set.
        output: A folder that is empty, new, or of such a call.
        shuffled: Splits whose images are put into a random order.
        seed: Seed of that order.
        images_per_shard: Images in a tar.
        workers: Number of processes; 0 for this one alone.

    Raises:
        UserError: The folder holds something else or is in use, an image cannot be read, or a file cannot be written.
    """
    plan = plan_shards(splits, shuffled, seed, images_per_shard)
    with disk_errors_told(output):
        output.mkdir(parents=True, exist_ok=True)
        with held(output) as mine:
            if not mine:
                raise UserError(
                    f"{output}: another process is writing shards here; wait for it, or name another folder."
                )
            return _write(plan, output, workers)


def _write(plan: Plan, output: Path, workers: int) -> Written:
    if _fingerprint(output, plan.fingerprint) != plan.fingerprint:
        raise UserError(
            f"{output} holds other files, or shards of other images or settings; name an empty or new folder with "
            "output=DIR."
        )
    missing: list[int] = []
    if not (output / INDEX).is_file():
        (output / _PARTS).mkdir(exist_ok=True)
        write_atomically(output / _PARTS / _PLAN, plan.fingerprint)
        remove_unfinished(output)
        missing = [number for number, shard in enumerate(plan.shards) if not _is_complete(output, shard)]
        if len(missing) < len(plan.shards):
            _log.info("%d of %d shards are complete already", len(plan.shards) - len(missing), len(plan.shards))
        loader = WorkerLoader(_ShardSet(plan, output), workers, batch_size=None, sampler=missing)
        with worker_deaths_told():
            for _ in track(loader, description="shards", total=len(missing), transient=True):
                pass
        _write_sums(plan, output)
        _write_index(plan, output)
    shutil.rmtree(output / _PARTS, ignore_errors=True)
    return Written(
        images={split: len(images) for split, images in plan.splits.items()},
        shards=Counter(shard.split for shard in plan.shards),
        new=len(missing),
        size=sum(_tar(output, shard).stat().st_size for shard in plan.shards),
    )


class _ShardSet(Dataset[int]):
    """Shards that are written when they are asked for."""

    def __init__(self, plan: Plan, output: Path) -> None:
        self._plan = plan
        self._output = output

    def __len__(self) -> int:
        return len(self._plan.shards)

    def __getitem__(self, number: int) -> int:
        shard = self._plan.shards[number]
        images, prefix = self._plan.splits[shard.split], self._plan.prefixes[shard.split]
        with naming(f"Writing {shard.name}.tar"):
            return write_shard(shard, images, prefix, _tar(self._output, shard), _part(self._output, shard))


def _tar(output: Path, shard: Shard) -> Path:
    return output / f"{shard.name}.tar"


def _part(output: Path, shard: Shard) -> Path:
    return output / _PARTS / f"{shard.name}.parquet"


def _fingerprint(output: Path, of_new: str) -> str | None:
    """Returns the fingerprint of the plan that the files of a folder follow, ``of_new`` for an empty one."""
    index, plan = output / INDEX, output / _PARTS / _PLAN
    try:
        if index.is_file():
            return str(json.loads(pq.read_schema(index).metadata[METADATA])["fingerprint"])
        if plan.is_file():
            return plan.read_text(encoding="utf-8")
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError):
        return None
    files = [path for path in output.rglob("*") if path.is_file() and path.parent.name != _PARTS]
    return of_new if {path.name for path in files} <= {OWNER} else None


def _notes(output: Path, shard: Shard) -> dict[str, Any]:
    """Returns the SHA-256 and the size of a tar that is complete."""
    notes: dict[str, Any] = json.loads(pq.read_schema(_part(output, shard)).metadata[PART])
    return notes


def _is_complete(output: Path, shard: Shard) -> bool:
    # The part is written last, but a disk may have been cleaned by hand.
    try:
        return bool(_tar(output, shard).stat().st_size == _notes(output, shard)["size"])
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError):
        return False


def _write_sums(plan: Plan, output: Path) -> None:
    """Writes the SHA-256 of each tar as ``sha256sum -c`` reads it."""
    lines = [f"{_notes(output, shard)['sha256']}  {_tar(output, shard).name}\n" for shard in plan.shards]
    write_atomically(output / SUMS, "".join(lines))


def _write_index(plan: Plan, output: Path) -> None:
    """Writes the index, which shows that everything else is complete."""
    class_names = {split: images.class_names for split, images in plan.splits.items()}
    notes = json.dumps({"format": FORMAT, "fingerprint": plan.fingerprint, "class_names": class_names})
    schema = SCHEMA.with_metadata({METADATA: notes})
    with open_atomically(output / INDEX) as file, pq.ParquetWriter(file, schema, write_page_checksum=True) as writer:
        waiting: list[pa.Table] = []
        for number, shard in enumerate(plan.shards):
            waiting.append(pq.read_table(_part(output, shard), schema=SCHEMA))
            # Groups of a few rows would make a large index slow to read.
            if sum(map(len, waiting)) >= _ROWS_OF_GROUP or number == len(plan.shards) - 1:
                table = pa.concat_tables(waiting).replace_schema_metadata(schema.metadata)
                writer.write_table(table.combine_chunks(), row_group_size=_ROWS_OF_GROUP)
                waiting = []
