"""The rules of the house that a reader of the tree relies on, proved from the syntax trees of all sources.

Who may import whom (lazy imports count too), what is too long, and what is never called. Each checker is
a plain function over source text, so that test_layers_checkers.py can show that it finds a planted violation.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("recsys", "data_processing", "model", "peft_ext", "deployment", "scripts")
LAYERS = (
    ("errors", "config", "schema", "runtime", "run_directory", "metrics", "buckets", "serving", "client"),
    ("cleaning", "etl", "data", "nn", "losses"),
    ("inputs", "backbones", "heads", "generation"),
    ("recommender", "hllm", "cad", "baselines"),
    ("build", "training", "evaluation", "inference", "export", "server", "search", "report", "sequences"),
    ("cli", "__init__", "__main__"),
)
LAYER_OF = {unit: layer for layer, units in enumerate(LAYERS) for unit in units}
LIGHT = ("errors", "schema", "config", "metrics", "buckets")
HEAVY = {"torch", "transformers", "accelerate", "sklearn", "scipy", "plotly", "pandas", "wandb"}
PICKLES = {"pickle", "cPickle", "cloudpickle", "dill"}
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 50

Modules = dict[str, str]
"""Dotted module name to source text; a package stands under its own name."""


class Import(NamedTuple):
    """One imported dotted name; `lazy` where it stands in a function, `typing` under TYPE_CHECKING."""

    name: str
    line: int
    lazy: bool
    typing: bool


def read_modules(root: Path, package: str) -> Modules:
    modules = {}
    for path in sorted((root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        modules[".".join(parts[:-1] if is_package else parts)] = path.read_text(encoding="utf-8")
    return modules


def is_package(name: str, modules: Modules) -> bool:
    return any(other.startswith(f"{name}.") for other in modules) or name in PACKAGES


def called_name(call: ast.Call) -> str:
    return ast.unparse(call.func) if isinstance(call.func, ast.Name | ast.Attribute) else ""


def flag(call: ast.Call, name: str) -> object:
    """The constant value of a keyword, or None where it is missing or computed."""
    values = [k.value.value for k in call.keywords if k.arg == name and isinstance(k.value, ast.Constant)]
    return values[0] if values else None


def imported_names(node: ast.AST, name: str, modules: Modules) -> list[str]:
    """Dotted names that one node imports; `from a import b` is a.b where that is a module, else a."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parts = name.split(".") if is_package(name, modules) else name.split(".")[:-1]
            parents = parts[: len(parts) - (node.level - 1)]
            base = ".".join([*parents, base] if base else parents)
        return [f"{base}.{a.name}" if f"{base}.{a.name}" in modules else base for a in node.names]
    if isinstance(node, ast.Call) and called_name(node).rpartition(".")[2] in {"import_module", "__import__"}:
        return [a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    return []


def find_imports(name: str, modules: Modules) -> list[Import]:
    found: list[Import] = []

    def visit(node: ast.AST, lazy: bool, typing: bool) -> None:
        line = getattr(node, "lineno", 0)
        found.extend(Import(target, line, lazy, typing) for target in imported_names(node, name, modules))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                visit(child, lazy, True)
            for child in node.orelse:
                visit(child, lazy, typing)
            return
        lazy = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, lazy, typing)

    visit(ast.parse(modules[name]), False, False)
    return found


def unit_of(name: str) -> str:
    """The part of recsys that a name belongs to: recsys.nn.fusion is of nn, recsys itself of __init__."""
    return name.split(".")[1] if "." in name else "__init__"


def layer_violations(modules: Modules) -> list[str]:
    problems = []
    for name in modules:
        unit = unit_of(name)
        if unit not in LAYER_OF:
            problems.append(f"{name} stands in no layer; add {unit} to the design and to LAYERS")
            continue
        for target, line, _, _ in find_imports(name, modules):
            if target.split(".")[0] != "recsys" or unit_of(target) == unit:
                continue
            mine, other = LAYER_OF[unit], LAYER_OF.get(unit_of(target))
            if other is None:
                problems.append(f"{name}:{line} imports {target}, which stands in no layer")
            elif other > mine:
                problems.append(f"{name}:{line} (layer {mine}) imports {target} (layer {other})")
            elif other == mine == 1:
                problems.append(f"{name}:{line} imports its sibling {target}")
    return problems


def cycles(modules: Modules) -> list[str]:
    graph = {
        name: {i.name for i in find_imports(name, modules) if i.name in modules and not i.typing} - {name}
        for name in modules
    }
    # Whatever can be taken away because it imports nothing that is left is on no cycle.
    while free := {name for name, targets in graph.items() if not targets & graph.keys()}:
        graph = {name: targets for name, targets in graph.items() if name not in free}
    return [f"{name} is on or above an import cycle" for name in graph]


def forbidden_imports(
    modules: Modules,
    packages: set[str],
    *,
    allow: frozenset[tuple[str, str]] = frozenset(),
    lazy_too: bool = True,
) -> list[str]:
    """Imports of the packages (or of what is in them), except the (module, imported) pairs of `allow`."""
    problems = []
    for name in modules:
        for target, line, lazy, _ in find_imports(name, modules):
            inside = any(target == package or target.startswith(f"{package}.") for package in packages)
            if inside and (lazy_too or not lazy) and (name, target) not in allow:
                problems.append(f"{name}:{line} imports {target}")
    return problems


def heavy_at_start(start: str, modules: Modules) -> list[str]:
    """Heavy libraries that `import start` loads, through however many of our modules."""
    problems, queue, seen = [], [start], set()
    while queue:
        name = queue.pop()
        if name in seen or name not in modules:
            continue
        seen.add(name)
        queue.extend(".".join(name.split(".")[:n]) for n in range(1, name.count(".") + 1))
        for target, line, lazy, typing in find_imports(name, modules):
            if lazy or typing:
                continue
            if target.split(".")[0] in HEAVY:
                problems.append(f"{name}:{line} imports {target} when {start} is imported")
            queue.append(target)
    return problems


def length_violations(name: str, source: str) -> list[str]:
    lines = source.count("\n")
    problems = [f"{name} has {lines} lines"] if lines >= MAX_FILE_LINES else []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            if ast.get_docstring(node, clean=False) is not None:
                length -= (node.body[0].end_lineno or 0) - node.body[0].lineno + 1
            if length >= MAX_FUNCTION_LINES:
                problems.append(f"{name}:{node.lineno} {node.name} has {length} lines beside its docstring")
    return problems


def unsafe_calls(name: str, source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            names = {module.split(".")[0], *(a.name.split(".")[0] for a in node.names)}
            if names & PICKLES:
                yield f"{name}:{node.lineno} imports {', '.join(sorted(names & PICKLES))}"
        elif isinstance(node, ast.Call):
            called = called_name(node)
            last = called.rpartition(".")[2]
            unsafe = (
                called in {"eval", "exec"}
                or called in {f"yaml.{f}" for f in ("load", "load_all", "full_load", "unsafe_load")}
                or last in {"read_pickle", "to_pickle"}
                or (called == "torch.load" and flag(node, "weights_only") is not True)
                or flag(node, "allow_pickle") is True
            )
            if unsafe:
                yield f"{name}:{node.lineno} calls {called}"


@pytest.fixture(scope="module")
def sources() -> dict[str, Modules]:
    return {package: read_modules(ROOT, package) for package in PACKAGES}


def test_layers_import_downwards_only(sources: dict[str, Modules]) -> None:
    assert layer_violations(sources["recsys"]) == []


def test_no_import_cycle(sources: dict[str, Modules]) -> None:
    assert cycles({name: text for modules in sources.values() for name, text in modules.items()}) == []


def test_recsys_stands_on_its_own(sources: dict[str, Modules]) -> None:
    others = {"data_processing", "model", "deployment", "scripts", "tests", "peft_ext"}
    bridge = frozenset(
        {
            ("recsys.build.peft", "peft_ext.adapt"),
            ("recsys.build.planned", "peft_ext.adapt"),
            ("recsys.build.planned", "peft_ext.memory"),
            ("recsys.training.memory", "peft_ext.activations"),
            ("recsys.training.memory", "peft_ext.memory"),
            ("recsys.training.memory_plan", "peft_ext.memory"),
            ("recsys.report.memory", "peft_ext.cards"),
        }
    )
    everything = sources["recsys"] | sources["peft_ext"]
    problems = forbidden_imports(everything, others, allow=bridge)
    assert [p for p in problems if p.startswith("recsys")] == []


def test_adaptation_does_not_know_recsys(sources: dict[str, Modules]) -> None:
    adapters = {n: t for n, t in sources["peft_ext"].items() if n != "peft_ext.merge"}
    assert forbidden_imports(adapters, {"recsys"}) == []


def test_data_processing_does_not_load_torch(sources: dict[str, Modules]) -> None:
    assert forbidden_imports(sources["data_processing"], {"torch"}, lazy_too=False) == []


def test_ground_layer_does_not_load_torch(sources: dict[str, Modules]) -> None:
    light = {name: text for name, text in sources["recsys"].items() if unit_of(name) in LIGHT}
    assert light
    assert forbidden_imports(light, {"torch"}, lazy_too=False) == []


def test_command_line_starts_light(sources: dict[str, Modules]) -> None:
    assert "recsys.cli" in sources["recsys"] or "recsys.cli.main" in sources["recsys"]
    assert heavy_at_start("recsys.cli", sources["recsys"]) == []


def test_nothing_is_too_long(sources: dict[str, Modules]) -> None:
    everything = {name: text for modules in sources.values() for name, text in modules.items()}
    everything |= read_modules(ROOT, "tests")
    assert [p for name, text in everything.items() for p in length_violations(name, text)] == []


def test_nothing_unsafe_is_called(sources: dict[str, Modules]) -> None:
    everything = {name: text for modules in sources.values() for name, text in modules.items()}
    assert [p for name, text in everything.items() for p in unsafe_calls(name, text)] == []
