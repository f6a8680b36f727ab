"""Every public name says what it is."""

import ast
from collections.abc import Iterator

from support.tree import modules, name_of, syntax

Documented = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def public_names() -> Iterator[tuple[str, Documented]]:
    """Yield public classes and functions, and the methods of public classes that no base class documents."""
    for path in modules():
        for node in syntax(path).body:
            if isinstance(node, Documented) and not node.name.startswith("_"):
                yield name_of(path), node
                if isinstance(node, ast.ClassDef):
                    yield from ((name_of(path), method) for method in methods(node))


def methods(cls: ast.ClassDef) -> Iterator[Documented]:
    """Yield the methods that need a docstring: gRPC's have it in the proto, overriding ones in their base class."""
    if cls.bases:
        return
    for node in cls.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name[0].islower():
            yield node


def test_every_module_says_what_it_is_for() -> None:
    assert [
        name_of(path) for path in modules() if path.name != "py.typed" and not ast.get_docstring(syntax(path))
    ] == []


def test_every_public_name_has_a_docstring() -> None:
    said = [(file, node) for file, node in public_names() if not is_error(node) and not is_servicer(node)]
    bare = [(file, node) for file, node in said if not ast.get_docstring(node)]
    assert [f"{file}:{node.lineno} {node.name}" for file, node in bare] == []


def is_error(node: Documented) -> bool:
    """Tell whether a class is one of the error family: its code, message or hint says what it is."""
    lines = node.body if isinstance(node, ast.ClassDef) else []
    assigned = {name for line in lines if isinstance(line, ast.Assign) for name in ast.unparse(line.targets[0]).split()}
    return bool({name.strip("(),") for name in assigned} & {"code", "message", "hint"})


def is_servicer(node: Documented) -> bool:
    """Tell whether a class serves a gRPC service: the proto says what each call does."""
    return isinstance(node, ast.ClassDef) and any(ast.unparse(base).endswith("Servicer") for base in node.bases)
