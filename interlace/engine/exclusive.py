"""Finds pipelines whose `__call__` changes shared modules in ways that no baseline check sees; they run one at a time.

Read from the source: hooks registered, or a `forward` replaced, in `__call__` or in a method that it calls.
"""

import ast
import inspect
import textwrap

_MARKS = frozenset({"register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"})


def exclusive_reason(pipeline_class: type) -> str:
    """Why requests of this pipeline must run one at a time; empty when they needn't."""
    todo, seen = ["__call__"], set[str]()
    while todo:
        name = todo.pop()
        method = getattr(pipeline_class, name, None)
        if name in seen or not inspect.isfunction(inspect.unwrap(method) if callable(method) else None):
            continue
        seen.add(name)
        for node in ast.walk(_tree(method)):
            if isinstance(node, ast.Attribute) and node.attr in _MARKS:
                return f"{name} uses {node.attr}"
            if isinstance(node, ast.Assign) and any(_replaces_forward(target) for target in node.targets):
                return f"{name} replaces a module's forward"
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
                todo.append(node.attr)
    return ""


def _tree(method: object) -> ast.AST:
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(method))))  # type: ignore[arg-type]
    except (OSError, TypeError, SyntaxError, IndentationError):  # defined in an interpreter session
        return ast.Module(body=[], type_ignores=[])


def _replaces_forward(target: ast.expr) -> bool:
    return isinstance(target, ast.Attribute) and target.attr == "forward"
