"""Refuses exported files with control flow: a loop in a file of a few bytes may run for ever.

No export of mbv2kit has any, because heads compute without control flow on data.
"""

import mmap
from collections.abc import Iterable, Iterator
from pathlib import Path

from mbv2kit.errors import UserError

# OpenVINO's and LiteRT's names; in ONNX files, such operations are known by the graphs that they hold.
_CONTROL_FLOW = frozenset({
    "Loop", "TensorIterator", "If", "WHILE", "IF", "CALL", "CALL_ONCE", "STABLEHLO_WHILE", "STABLEHLO_CASE",
})  # fmt: skip

# Numbers of the fields in ONNX's definition, onnx.proto.
_GRAPH, _FUNCTIONS = 7, 25
_NODE = 1
_OPERATION, _ATTRIBUTE = 4, 5
_NESTED_GRAPH, _NESTED_GRAPHS = 6, 11
_TEXT_OR_MESSAGE = 2


def check_straight(path: Path, operations: Iterable[str]) -> None:
    """Raises :class:`UserError` if one of a network's operations, by the names of its runtime, is control flow."""
    for name in operations:
        if name in _CONTROL_FLOW:
            raise _refused(path, name)


def check_straight_onnx(path: Path) -> None:
    """Raises :class:`UserError` if a node of an ONNX file holds a graph, or the file defines functions.

    The file is read as bytes, because inference does without the package onnx. A damaged file is left to the runtime.
    """
    if path.stat().st_size == 0:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            _check_model(path, content)
        except (IndexError, ValueError):
            return


def _check_model(path: Path, content: mmap.mmap) -> None:
    for field, start, end in _fields(content, 0, len(content)):
        # Functions that call each other twice would double at each level.
        if field == _FUNCTIONS:
            raise _refused(path, "a function of its own")
        if field != _GRAPH:
            continue
        for part, first, last in _fields(content, start, end):
            if part == _NODE:
                _check_node(path, content, first, last)


def _check_node(path: Path, content: mmap.mmap, start: int, end: int) -> None:
    name, nested = "", False
    for field, first, last in _fields(content, start, end):
        if field == _OPERATION:
            name = content[first:last].decode(errors="replace")
        elif field == _ATTRIBUTE:
            nested |= any(part in (_NESTED_GRAPH, _NESTED_GRAPHS) for part, _, _ in _fields(content, first, last))
    if nested:
        raise _refused(path, name)


def _refused(path: Path, name: str) -> UserError:
    return UserError(
        f"{path} has control flow ({name}), which may run for ever and which no network of mbv2kit needs; export the "
        "model again."
    )


def _fields(content: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yields number, start and end of the fields of a message that hold text, bytes or messages.

    Raises:
        ValueError: The bytes are no message of Protocol Buffers.
        IndexError: Likewise.
    """
    while start < end:
        key, start = _number(content, start)
        kind = key & 7
        if kind == 0:
            _, start = _number(content, start)
        elif kind in (1, 5):
            start += 8 if kind == 1 else 4
        elif kind == _TEXT_OR_MESSAGE:
            length, start = _number(content, start)
            if start + length > end:
                raise ValueError("a field is longer than its message")
            yield key >> 3, start, start + length
            start += length
        else:
            raise ValueError(f"a field has the unknown kind {kind}")


def _number(content: mmap.mmap, start: int) -> tuple[int, int]:
    """Returns a number of variable length, seven bits a byte, and the place behind it."""
    value = shift = 0
    while True:
        byte = content[start]
        start += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, start
