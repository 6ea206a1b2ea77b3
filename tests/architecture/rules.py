"""The architecture of the package as data, and the checks that hold its source to it. Nothing of the package is imported."""

from __future__ import annotations

import ast
import collections
import dataclasses
import io
import tokenize
from pathlib import Path

PACKAGE = "bridgejax"
# From the top down: a room imports from rooms of the lines below its own, and from those of its own line that SIDEWAYS names.
# What has no line here is not part of the architecture; docs/architecture.md says what each room is for.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("__main__",),
    ("cli", "improvement"),
    ("papers", "scaling", "report", "executors", "doctor"),
    ("studies",),
    ("inversion", "synthesis", "training"),
    ("data", "diffusion", "evaluation"),
    ("models", "prompts"),
    ("config",),
    ("recipes",),
    # The ground: one file each, which may import each other.
    (
        "allocator",
        "compilation",
        "disk_cache",
        "errors",
        "fields",
        "files",
        "identity",
        "jax_defaults",
        "known_names",
        "mesh",
        "mesh_axes",
        "progress",
        "progress_page",
        "runtime",
        "workdir",
        PACKAGE,  # the version
    ),
)
SIDEWAYS: frozenset[tuple[str, str]] = frozenset({("prompts", "models")})  # language models
TENSORFLOW, TENSORFLOW_ROOM = ("tensorflow", "tensorflow_datasets"), "data"
MOST_LINES, MOST_ANY = 500, 100

_LAYER = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}
_GROUND = len(LAYERS) - 1


@dataclasses.dataclass(frozen=True)
class Import:
    """One import statement, wherever it stands: at the top, in a function or under TYPE_CHECKING.

    Attributes:
      file, line: where, relative to the folder that holds the package.
      importer: the module that it is in.
      imported: the module that it names, not what is taken from it.
    """

    file: Path
    line: int
    importer: str
    imported: str


def source_files(root: Path) -> dict[str, Path]:
    """Returns module name → file of the package below `root`."""
    files = sorted((root / PACKAGE).rglob("*.py"))
    return {".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def room_of(module: str) -> str:
    """Returns the room of one of the package's modules: the first name below the package."""
    return module.split(".")[1] if "." in module else PACKAGE


def imports_of(root: Path) -> list[Import]:
    """Returns every import statement of the package."""
    files = source_files(root)
    found = []
    for module, file in files.items():
        package = module if file.name == "__init__.py" else module.rpartition(".")[0]
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
            names = _named(node, package, files) if isinstance(node, ast.Import | ast.ImportFrom) else ()
            for name in names:
                if name != module:
                    found.append(Import(file.relative_to(root), node.lineno, module, name))
    return list(dict.fromkeys(found))


def _named(node: ast.Import | ast.ImportFrom, package: str, files: dict[str, Path]) -> list[str]:
    """Returns the modules that a statement in a package names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    parents = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
    base = ".".join([*parents, *([node.module] if node.module else [])])
    return [f"{base}.{alias.name}" if f"{base}.{alias.name}" in files else base for alias in node.names]


def upward_imports(root: Path) -> list[str]:
    """Returns what is imported from a room above, or beside, the importing one."""
    faults = []
    for each in imports_of(root):
        if each.imported.split(".")[0] != PACKAGE:
            continue
        importer, imported = room_of(each.importer), room_of(each.imported)
        unknown = next((room for room in (importer, imported) if room not in _LAYER), None)
        if unknown is not None:
            faults.append(
                f"{each.file}:{each.line}: {unknown} has no place in the import order ({importer} imports {imported})"
            )
        elif importer != imported and not _allowed(importer, imported):
            faults.append(f"{each.file}:{each.line}: {importer} imports {imported} ({each.imported}), which is not below it")
    return faults


def _allowed(importer: str, imported: str) -> bool:
    above, below = _LAYER[importer], _LAYER[imported]
    return below > above or (below == above and (above == _GROUND or (importer, imported) in SIDEWAYS))


def circles(root: Path) -> list[str]:
    """Returns the circles of modules that import each other, each as one line of statements that close it."""
    edges: dict[str, dict[str, Import]] = collections.defaultdict(dict)
    known = source_files(root)
    for each in imports_of(root):
        if each.imported in known:
            edges[each.importer].setdefault(each.imported, each)
    faults, seen = [], set()
    for start in known:
        path = _way_back(start, edges)
        if path and frozenset(path) not in seen:
            seen.add(frozenset(path))
            steps = [edges[a][b] for a, b in zip(path, [*path[1:], start], strict=True)]
            faults.append(
                " → ".join(f"{step.importer} ({step.file.name}:{step.line})" for step in steps) + f" → {start}, a circle"
            )
    return faults


def _way_back(start: str, edges: dict[str, dict[str, Import]]) -> list[str] | None:
    """Returns the shortest path of modules from `start` whose last imports `start`, or None."""
    paths, queue = {start: [start]}, collections.deque([start])
    while queue:
        module = queue.popleft()
        if start in edges[module]:
            return paths[module]
        for following in edges[module]:
            if following not in paths:
                paths[following] = [*paths[module], following]
                queue.append(following)
    return None


def tensorflow_imports(root: Path) -> list[str]:
    """Returns where TensorFlow is imported outside its room."""
    return [
        f"{each.file}:{each.line}: {room_of(each.importer)} imports {each.imported}, which only {TENSORFLOW_ROOM} may import"
        for each in imports_of(root)
        if each.imported.split(".")[0] in TENSORFLOW and room_of(each.importer) != TENSORFLOW_ROOM
    ]


def long_files(root: Path) -> list[str]:
    """Returns the files that are too long."""
    lengths = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in source_files(root).values()}
    return [
        f"{file.relative_to(root)}: {lines} lines, but at most {MOST_LINES} are allowed"
        for file, lines in lengths.items()
        if lines > MOST_LINES
    ]


def too_many_any(root: Path) -> list[str]:
    """Returns how often `Any` stands in each file's code, if it stands in the package more often than it may."""
    counts = {}
    for file in source_files(root).values():
        tokens = tokenize.generate_tokens(io.StringIO(file.read_text(encoding="utf-8")).readline)
        counts[file] = sum(token.type == tokenize.NAME and token.string == "Any" for token in tokens)
    if sum(counts.values()) <= MOST_ANY:
        return []
    rows = [f"{file.relative_to(root)}: {count}" for file, count in sorted(counts.items(), key=lambda row: -row[1]) if count]
    return [f"Any stands {sum(counts.values())} times in the package, but at most {MOST_ANY} times is allowed", *rows]


def repeated_names(root: Path) -> list[str]:
    """Returns the public classes, and the files, whose name another one in the package has too."""
    places: dict[str, list[str]] = collections.defaultdict(list)
    for file in source_files(root).values():
        if file.stem != "__init__":
            places[f"file {file.name}"].append(str(file.relative_to(root)))
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[f"class {node.name}"].append(f"{file.relative_to(root)}:{node.lineno}")
    return [f"{name} is there {len(where)} times: {', '.join(where)}" for name, where in places.items() if len(where) > 1]
