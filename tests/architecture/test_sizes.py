"""Size budgets, measured from well-kept Python daemons: small functions, modules that fit in a head."""

import ast
from collections.abc import Iterator
from statistics import median, quantiles

from support.tree import modules, name_of, syntax

MEDIAN_LINES, P95_LINES, MAX_LINES, MAX_MODULE_LINES, MAX_PUBLIC_NAMES = 9, 40, 70, 400, 16


def functions() -> Iterator[tuple[int, str]]:
    """Yield the length in lines and the place of every function."""
    for path in modules():
        for node in ast.walk(syntax(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield (node.end_lineno or node.lineno) - node.lineno + 1, f"{name_of(path)}:{node.lineno} {node.name}"


def test_functions_are_short() -> None:
    lengths = [length for length, _ in functions()]
    assert median(lengths) <= MEDIAN_LINES
    assert quantiles(lengths, n=20)[-1] <= P95_LINES


def test_no_function_is_long() -> None:
    assert [f"{place} has {length} lines" for length, place in functions() if length > MAX_LINES] == []


def test_no_module_is_long() -> None:
    lines = {name_of(path): len(path.read_text().splitlines()) for path in modules()}
    assert {name: count for name, count in lines.items() if count > MAX_MODULE_LINES} == {}


def test_no_module_has_many_public_names() -> None:
    """Errors and values stand in families: those modules may be wider."""
    counts = {name_of(path): sum(is_public(node) for node in syntax(path).body) for path in modules()}
    assert {name: count for name, count in counts.items() if count > MAX_PUBLIC_NAMES} == {}


def is_public(node: ast.stmt) -> bool:
    """Tell whether a statement of a module makes a public function, or a class that is no error."""
    if isinstance(node, ast.ClassDef):
        errors = any(isinstance(base, ast.Name) and base.id.endswith("Error") for base in node.bases)
        return not errors and not node.name.startswith("_")
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_")
