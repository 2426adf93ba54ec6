#!/usr/bin/env python3
"""Checks that the package keeps to its rooms: imports one way, no circle, no class name twice, no crowded folder, no
file or function that is too long, and `Any` in few public signatures.

Which rooms may import which is the table of layers in docs/architecture.md, whose other tables are checked too: every
folder is named, and every function on the two ways through the house exists. Prints its counts, and sizes of functions
beside them; exit status 1 where one of the counts isn't 0.
"""

import ast
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "interlace"
MOST_FILES = 12  # of one folder, without its __init__
MOST_FUNCTION, MOST_FILE = 60, 300  # lines
# Words with one meaning, and the modules whose names may hold them: a shard is a tar file, a place is a process's.
WORDS = {
    "shard": r"interlace\.(bulk\.(output|report)|cli)\b",
    "place": r"interlace\.(engine|models|stages|media|demo|ray|bulk\.launch|cli\.session)\b",
}
MOST_ANY = 0.1  # of the public signatures; it may stand for a pipeline's own arguments
Layer = tuple[int, int]  # its number from below, and which of the groups in it


def main(root: Path = ROOT) -> int:
    """Checks the package under `root`; returns the exit status."""
    trees = {module_of(path, root): ast.parse(path.read_text()) for path in sorted((root / PACKAGE).rglob("*.py"))}
    imports = {module: set(imports_of(module, tree, trees)) for module, tree in trees.items()}
    page = (root / "docs" / "architecture.md").read_text()
    layers = layers_of(page)
    problems = {
        "imports up the layers": list(arrows_up(imports, layers)),
        "circles": [" -> ".join(sorted(circle)) for circle in circles(imports)],
        "class names twice": list(doubled(trees)),
        "folders without a word in docs/architecture.md (Rooms within rooms)": list(unnamed(root / PACKAGE, page)),
        "steps of its two ways that don't exist": list(missteps(page, trees)),
        "words with another meaning": list(misused(trees)),
        f"folders over {MOST_FILES} files": list(crowded(root / PACKAGE)),
        f"functions over {MOST_FUNCTION} lines": [f"{name} ({n})" for name, n in functions(trees) if n > MOST_FUNCTION],
        f"files over {MOST_FILE} lines": list(long_files(root)),
    }
    public = [one for module, tree in trees.items() for one in signatures(tree.body, f"{module}.")]
    loose = [name for name, annotations in public if any(map(says_any, annotations))]
    share = len(loose) / max(len(public), 1)
    if share > MOST_ANY:
        problems[f"public signatures with Any, which may be {MOST_ANY:.0%} of them"] = loose
    for name, found in problems.items():
        print(f"{name}: {len(found)}")
        for one in found:
            print(f"  {one}")
    print(f"public signatures with Any: {share:.1%} of {len(public)}")
    show_sizes([n for _, n in functions(trees)], root)
    return 1 if any(problems.values()) else 0


def module_of(path: Path, root: Path) -> str:
    """interlace/bulk/__init__.py as interlace.bulk."""
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def imports_of(module: str, tree: ast.Module, known: Mapping[str, ast.Module]) -> Iterator[str]:
    """The package's modules that a module imports, wherever in its text, for types too."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            found = name if name in known else name.rpartition(".")[0]
            if found in known and found != module:
                yield found


def layers_of(text: str) -> dict[str, Layer]:
    """Rooms with their layer, from the rows `| 3 | engine | ... |` of the table of layers.

    Rooms with a comma between them may import each other, those with a dot (·) may not.
    """
    layers = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) >= 2 and cells[0].isdigit():
            for group, rooms in enumerate(cells[1].split("·")):
                names = [room.strip("` ").replace("/", ".") for room in rooms.split(",")]
                layers |= {f"{PACKAGE}.{name}": (int(cells[0]), group) for name in names}
    return layers


def room_of(module: str, layers: Mapping[str, Layer]) -> str | None:
    """The room in the table that a module lies in: the innermost."""
    parts = module.split(".")
    prefixes = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in layers), None)


def arrows_up(imports: Mapping[str, set[str]], layers: Mapping[str, Layer]) -> Iterator[str]:
    """Imports of a higher layer, or of another room of the same one; modules that no layer has."""
    for module, others in imports.items():
        own = room_of(module, layers)
        if own is None:
            if module not in (PACKAGE, f"{PACKAGE}.__main__"):
                yield f"{module} is in no layer of docs/architecture.md"
            continue
        for other in sorted(others):
            room = room_of(other, layers)
            if room is not None and layers[room] != layers[own] and layers[room][0] >= layers[own][0]:
                yield f"{module} imports {other}"


def circles(imports: Mapping[str, set[str]]) -> list[set[str]]:
    """Groups of modules that import each other, by reachability."""
    reach = {module: reachable(module, imports) for module in imports}
    found: list[set[str]] = []
    for module in imports:
        circle = {other for other in reach[module] if module in reach[other]}
        if circle and circle not in found:
            found.append(circle)
    return found


def reachable(start: str, imports: Mapping[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    left = [start]
    while left:
        for other in imports[left.pop()] - seen - {PACKAGE}:  # the package itself lists names, and imports none of them
            seen.add(other)
            left.append(other)
    return seen


def doubled(trees: Mapping[str, ast.Module]) -> Iterator[str]:
    """Public class names that several modules define; a private one is its module's affair."""
    places = defaultdict(list)
    for module, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name.lstrip("_")].append(module)
    yield from (f"{name}: {', '.join(modules)}" for name, modules in places.items() if len(modules) > 1)


def unnamed(package: Path, page: str) -> Iterator[str]:
    """Rooms within rooms without a mention in the row `| `room/` | `one` (what it is) · ... |`."""
    for path in sorted(package.glob("*/*/__init__.py")):
        outer, inner = path.parent.parent.name, path.parent.name
        row = next((line for line in page.splitlines() if line.startswith(f"| `{outer}/` |")), "")
        if f"`{inner}`" not in row:
            yield f"{outer}/{inner}"


def missteps(page: str, trees: Mapping[str, ast.Module]) -> Iterator[str]:
    """Functions in the tables of ways (`| room | function | what happens |`) that no module has; rooms entered twice.

    A way goes down to the engine and `and back`: each is one visit.
    """
    room, visited, inside = "", set[str](), False
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if cells[:2] == ["room", "function"]:
            inside, visited = True, set()
        elif not line.startswith("|"):
            inside = False
        elif inside and not cells[1].startswith("-"):
            if cells[0]:
                visited = set() if cells[0].startswith("and back") else visited
                room = cells[0].split("`")[1]
                if room in visited:
                    yield f"{room} is entered twice"
                visited.add(room)
            name = cells[1].strip("`")
            if not _exists(f"{PACKAGE}.{room}.{name}", trees):
                yield f"{room}: {name}"


def _exists(dotted: str, trees: Mapping[str, ast.Module]) -> bool:
    """Whether the longest module in `dotted` defines what follows: a function, a class, a method."""
    module = next((m for m in sorted(trees, key=len, reverse=True) if dotted.startswith(f"{m}.")), None)
    if module is None:
        return False
    body: list[ast.stmt] = trees[module].body
    for name in dotted.removeprefix(f"{module}.").split("."):
        defined = [node for node in body if getattr(node, "name", "") == name]
        if not defined:
            return False
        body = getattr(defined[0], "body", [])
    return True


def misused(trees: Mapping[str, ast.Module]) -> Iterator[str]:
    """Names of functions, classes, arguments and variables that hold one of WORDS where it has another meaning.

    Private ones are their module's affair.
    """
    for module, tree in trees.items():
        found = {
            part for node in ast.walk(tree) for name in names_in(node) for part in words_of(name) if name[0] != "_"
        }
        for word, where in WORDS.items():
            if {word, f"{word}s"} & found and not re.match(where, module):
                yield f"{module}: {word}"


def names_in(node: ast.AST) -> Iterator[str]:
    yield from (
        getattr(node, field) for field in ("id", "arg", "attr", "name") if isinstance(getattr(node, field, 0), str)
    )


def words_of(name: str) -> list[str]:
    """TarShard and tar_shard as tar, shard."""
    return re.findall(r"[a-z]+", re.sub(r"([A-Z])", r"_\1", name).lower())


def crowded(package: Path) -> Iterator[str]:
    counts = Counter(path.parent for path in package.rglob("*.py") if path.name not in ("__init__.py", "__main__.py"))
    yield from (f"{folder.name}: {count}" for folder, count in counts.items() if count > MOST_FILES)


def functions(trees: Mapping[str, ast.Module]) -> Iterator[tuple[str, int]]:
    """Every function with the lines of its body, without docstring; those that only declare flags have none."""
    for module, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                body = node.body[1:] if ast.get_docstring(node) is not None else node.body
                lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0  # type: ignore[operator]
                yield f"{module}.{node.name}", lines + 1


def signatures(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, list[ast.expr]]]:
    """Public functions, and methods of public classes, with the annotations of what they take and give."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from signatures(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and is_public(node.name):
            given = node.args
            taken = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
            annotations = [*(one.annotation for one in taken if one is not None), node.returns]
            yield prefix + node.name, [one for one in annotations if one is not None]


def is_public(name: str) -> bool:
    return not name.startswith("_") or name in ("__init__", "__call__")


def says_any(annotation: ast.expr) -> bool:
    """Whether `Any` stands in it, also within quotes."""
    quoted = (node.value for node in ast.walk(annotation) if isinstance(node, ast.Constant))
    names = {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)}
    return "Any" in names or any(isinstance(text, str) and "Any" in re.findall(r"\w+", text) for text in quoted)


def long_files(root: Path) -> Iterator[str]:
    for path in sorted((root / PACKAGE).rglob("*.py")):
        count = len(path.read_text().splitlines())
        if count > MOST_FILE:
            yield f"{path.relative_to(root)} ({count})"


def show_sizes(lengths: list[int], root: Path) -> None:
    lines = sum(len(path.read_text().splitlines()) for path in (root / PACKAGE).rglob("*.py"))
    short = sum(length < 20 for length in lengths) / len(lengths)
    print(
        f"functions: {len(lengths)}, median {median(lengths):g} lines, {short:.0%} under 20, longest {max(lengths)}; "
        f"package: {lines} lines"
    )


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT))
