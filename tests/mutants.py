"""Changes one thing of a module at a time, and runs its fast tests on each change.

python -m tests.mutants mbv2kit/splitting/window.py tests/splitting           every mutant of the module
python -m tests.mutants mbv2kit/splitting/planner.py:154 tests/splitting      those from line 154 on

A mutant is killed if a test fails or the tests do not end; the others are printed. No file is changed: a process of its
own imports the mutant.
"""

import ast
import copy
import importlib.abc
import importlib.util
import io
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from importlib.machinery import ModuleSpec
from types import ModuleType

_SECONDS = 300
_OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult},
    **{ast.Mod: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.And: ast.Or, ast.Or: ast.And},
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.In: ast.NotIn, ast.NotIn: ast.In},  # codespell:ignore
    **{ast.Is: ast.IsNot, ast.IsNot: ast.Is},
}
# Each returns the node in place of another, or None where it does not apply.
_Change = Callable[[ast.AST], ast.AST | None]


def _swap_operator(node: ast.AST) -> ast.AST | None:
    if isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in _OPERATORS:
        node.op = _OPERATORS[type(node.op)]()  # type: ignore[assignment]
        return node
    return node.operand if isinstance(node, ast.UnaryOp) else None


def _swap_comparison(node: ast.AST) -> ast.AST | None:
    if isinstance(node, ast.Compare) and type(node.ops[0]) in _OPERATORS:
        node.ops[0] = _OPERATORS[type(node.ops[0])]()  # type: ignore[call-overload]
        return node
    return None


def _change_constant(node: ast.AST) -> ast.AST | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
        node.value = not node.value if isinstance(node.value, bool) else node.value + 1
        return node
    return None


def _negate_condition(node: ast.AST) -> ast.AST | None:
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        node.test = ast.UnaryOp(ast.Not(), node.test)
        return node
    if isinstance(node, ast.comprehension) and node.ifs:
        node.ifs[0] = ast.UnaryOp(ast.Not(), node.ifs[0])
        return node
    return None


def _widen_slice(node: ast.AST) -> ast.AST | None:
    return ast.Slice() if isinstance(node, ast.Slice) and (node.lower or node.upper or node.step) else None


def _drop_keyword(node: ast.AST) -> ast.AST | None:
    if isinstance(node, ast.Call) and node.keywords:
        node.keywords = node.keywords[:-1]
        return node
    return None


def _drop_statement(node: ast.AST) -> ast.AST | None:
    is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    dropped = isinstance(node, ast.Expr | ast.Assign | ast.AugAssign | ast.Continue | ast.Break)
    return ast.Pass() if dropped and not is_docstring else None


def _return_nothing(node: ast.AST) -> ast.AST | None:
    return ast.Return() if isinstance(node, ast.Return) and node.value is not None else None


_CHANGES: tuple[_Change, ...] = (
    _swap_operator, _swap_comparison, _change_constant, _negate_condition, _widen_slice, _drop_keyword, _drop_statement,
    _return_nothing,
)  # fmt: skip


def mutants(source: str, first_line: int = 1) -> Iterator[tuple[int, str, str]]:
    """Yields line, name of the change and source of every mutant of a module."""
    tree = ast.parse(source)
    whole = ast.unparse(tree)
    for place, (line, node) in enumerate(_nodes(tree, 0)):
        for change in _CHANGES if line >= first_line else ():
            if change(copy.deepcopy(node)) is None:
                continue
            mutant = copy.deepcopy(tree)
            _, changed = list(_nodes(mutant, 0))[place]
            _replace(mutant, changed, change)
            text = ast.unparse(ast.fix_missing_locations(mutant))
            if text != whole:
                yield line, change.__name__.strip("_").replace("_", " "), text


def _nodes(node: ast.AST, line: int) -> Iterator[tuple[int, ast.AST]]:
    """Yields nodes with their lines; annotations, decorators and messages of errors stay as they are."""
    line = getattr(node, "lineno", line)
    yield line, node
    for name, value in ast.iter_fields(node):
        if name not in ("annotation", "returns", "decorator_list"):
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, ast.AST) and not isinstance(each, ast.Raise):
                    yield from _nodes(each, line)


def _replace(tree: ast.AST, old: ast.AST, change: _Change) -> None:
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if value is old:
                setattr(parent, name, change(old))
                return
            if isinstance(value, list):
                for index, each in enumerate(value):
                    if each is old:
                        value[index] = change(old)
                        return


class _Loader(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports the mutant in place of its module."""

    def __init__(self, name: str, file: str, source: str) -> None:
        self.name, self.file, self.source = name, file, source

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return importlib.util.spec_from_file_location(name, self.file, loader=self) if name == self.name else None

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.source, self.file, "exec"), module.__dict__)


def survives(file: str, source: str, tests: Sequence[str]) -> bool:
    """Runs tests on a mutant in a process of its own, and returns whether all of them pass."""
    name = file.removesuffix(".py").replace("/", ".")
    assert name not in sys.modules
    child = os.fork()
    if child == 0:
        signal.alarm(_SECONDS)
        sys.meta_path.insert(0, _Loader(name, file, source))
        import pytest

        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            status = pytest.main(["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", "--capture=no", *tests])
        os._exit(int(status))
    return os.waitpid(child, 0)[1] == 0


def main(target: str, *tests: str) -> None:
    """Prints the mutants that survive, and how many there are of each kind."""
    file, _, first_line = target.partition(":")
    with open(file, encoding="utf-8") as stream:
        source = stream.read()
    # Processes that are forked from this one need not import them.
    import pytest
    import torch

    del pytest, torch
    assert survives(file, source, tests), "the tests fail without any change"
    left, total, start = 0, 0, time.monotonic()
    for line, name, mutant in mutants(source, int(first_line or 1)):
        total += 1
        if survives(file, mutant, tests):
            left += 1
            print(f"{file}:{line}: {name} survives", flush=True)
            was, now = ast.unparse(ast.parse(source)).splitlines(), mutant.splitlines()
            for before, after in zip(was, now, strict=False):
                if before != after:
                    print(f"    {before.strip()}\n    {after.strip()}", flush=True)
                    break
    print(f"{total} mutants, {total - left} killed, {left} left, {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
