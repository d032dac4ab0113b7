"""The house rules that a machine can check: layers, import cycles, sizes, what an import drags in."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"tapejit": ROOT / "tapejit", "tapejit.codegen": ROOT / "codegen", "tapejit.ir": ROOT / "ir"}
LAYERS = ("tapejit.ir", "tapejit.codegen", "tapejit")  # each may import itself and those before it
LLVM = {"codegen/engine.py", "codegen/emit.py"}
LINES = 600


def modules():
    """Module name -> file, of everything that is installed."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            if parts[-1] == "__init__":
                parts = parts[:-1]
            found[".".join([package, *parts])] = path
    return found


MODULES = modules()


def layer(module):
    return next(name for name in sorted(LAYERS, key=len, reverse=True) if f"{module}.".startswith(f"{name}."))


def imports(module, at_import_time=False):
    """(name, line) of every module that a module imports; `at_import_time`: only outside functions."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    todo = list(ast.parse(path.read_text()).body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                start = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1])
                base = f"{start}.{base}" if base else start
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield (inner if inner in MODULES else base), node.lineno
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) and at_import_time:
            continue
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        else:
            todo += list(ast.iter_child_nodes(node))


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_run_one_way(module):
    allowed = LAYERS[: LAYERS.index(layer(module)) + 1]
    for name, line in imports(module):
        if name.split(".")[0] == "tapejit":
            assert name in MODULES, f"{MODULES[module]}:{line} imports {name}, which does not exist"
            assert layer(name) in allowed, f"{MODULES[module]}:{line}: {layer(module)} must not import {name}"
        assert name.split(".")[0] not in ("ir", "codegen"), f"{MODULES[module]}:{line} imports {name} by its second name"
        if name.split(".")[0] == "llvmlite":
            assert str(MODULES[module].relative_to(ROOT)) in LLVM, f"{MODULES[module]}:{line} imports {name}"


@pytest.mark.parametrize("package", ["tapejit.ir", "tapejit.codegen"])
def test_no_import_cycles(package):
    """Between modules, at import time. A package's __init__ is not counted: it imports its modules to fill the table."""
    edges = {
        m: {n for n, _ in imports(m, at_import_time=True) if n in MODULES and MODULES[n].name != "__init__.py"}
        for m in MODULES
        if layer(m) == package and MODULES[m].name != "__init__.py"
    }
    done = set()
    while ready := [m for m in edges if m not in done and edges[m] & edges.keys() <= done]:
        done.update(ready)
    assert set(edges) == done, f"cycle among {sorted(set(edges) - done)}"


def test_files_are_short_and_say_what_they_are():
    for path in [*MODULES.values(), *ROOT.joinpath("tests").rglob("*.py")]:
        text = path.read_text()
        name = path.relative_to(ROOT)
        assert text.count("\n") <= LINES, f"{name} has {text.count(chr(10))} lines"
        assert not text.strip() or ast.get_docstring(ast.parse(text)), f"{name} has no docstring"


def run(code, cwd):
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, env=clean())


def clean():
    import os

    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


PLAIN_TYPES = {"np.ndarray", "np.generic", "np.integer", "np.number", "float", "int", "bool"}
NEVER_ARRAYS = {"tapejit.array", "tapejit.into", "tapejit.bench", "tapejit.__main__", "tapejit.show"}


def test_own_code_asks_for_the_type_of_what_may_be_recorded():
    """An Array says of itself that it is an ndarray or a number, to isinstance: `array.is_a` knows better."""
    for name, path in MODULES.items():
        if name.startswith(("tapejit.ir", "tapejit.codegen")) or name in NEVER_ARRAYS:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
                asked = {ast.unparse(n) for n in ast.walk(node.args[1])}
                assert asked.isdisjoint(PLAIN_TYPES), f"{path}:{node.lineno}"


@pytest.mark.parametrize("name", ["ir", "codegen"])
def test_no_module_has_two_names(name, tmp_path):
    done = run(f"import {name}", tmp_path)
    assert done.returncode != 0 and "ModuleNotFoundError" in done.stderr


def test_import_brings_in_numpy_and_little_else(tmp_path):
    heavy = ("scipy", "networkx", "matplotlib", "llvmlite", "rich")
    done = run(f"import sys, tapejit; print([m for m in {heavy} if m in sys.modules])", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
