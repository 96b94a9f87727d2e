"""Describes the machine that runs a benchmark."""

import os
import platform
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mbv2kit import __version__
from mbv2kit.lab.benchmark.results import CaseResult
from mbv2kit.process import processor_name, read_system_file

# Instruction sets that matter for the speed of networks, by their names in Linux.
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimd", "i8mm")


def describe_machine(threads: int) -> dict[str, Any]:
    """Returns processor, cores, instruction sets, memory, system, Python version and the threads of competitors."""
    processor = read_system_file(Path("/proc/cpuinfo"))
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", processor, re.MULTILINE)
    instructions = flags[1].split() if flags else []
    memory = re.search(r"^MemTotal:\s+(\d+) kB", read_system_file(Path("/proc/meminfo")), re.MULTILINE)
    return {
        "processor": processor_name() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": threads,
        "instructions": [name for name in _INSTRUCTIONS if name in instructions],
        "memory_gb": round(int(memory.group(1)) * 1.024e-6, 1) if memory else None,
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "mbv2kit": __version__,
    }


def versions(cases: Iterable[CaseResult]) -> dict[str, str]:
    """Returns the versions of the packages that competitors used."""
    found: dict[str, set[str]] = {}
    for case in cases:
        for row in case.rows:
            told: Mapping[str, str | None] = row.facts.get("versions", {})
            for package, version in told.items():
                if version is not None:
                    found.setdefault(package, set()).add(version)
    return {package: ", ".join(sorted(numbers)) for package, numbers in sorted(found.items())}
