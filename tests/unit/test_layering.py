"""Arrows between the packages point one way only (style guide, "Layers")."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
VALUES = {"errors", "clock", "sip"}
SHARED = {"shm", "net", "db", "rpc", "config", "log"}
# Who may import what, by the first name below serpy. A package may always import itself.
ALLOWED = {
    "errors": set(),
    "clock": set(),
    "sip": {"errors"},
    "context": VALUES,
    "transaction": VALUES | {"context"},
    "script": VALUES | {"context"},
    "shm": VALUES,
    "config": VALUES | {"shm"},
    "log": VALUES,
    "net": VALUES | {"config"},
    "db": VALUES | {"net", "shm", "config"},
    "rpc": VALUES | SHARED | {"api", "script"},
    "tools": VALUES | {"db", "rpc", "config", "log", "loader", "script"},
    "rtp": VALUES | {"context"} | {"net", "shm", "script", "api"},
    "api": VALUES | {"context"} | SHARED | {"transaction", "script"},
    "replication": VALUES | {"context"} | SHARED | {"api", "script"},
    "pipeline": VALUES | {"context"} | SHARED | {"transaction", "script", "api"},
    "loader": VALUES | {"context"} | SHARED | {"transaction", "script", "api", "modules"},
    "workers": VALUES | {"context"} | SHARED | {"transaction", "script", "api", "pipeline", "replication"},
    "master": VALUES | SHARED | {"api", "workers"},
    "daemon": VALUES | SHARED | {"api", "workers", "master", "loader"},
    "__main__": {"daemon"},
    "__init__": set(),
}


def imports(path):
    """(line, module) of every serpy import that happens at run time; those for the type checker alone are free."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        node
        for guard in ast.walk(tree)
        if isinstance(guard, ast.If) and isinstance(guard.test, ast.Name) and guard.test.id == "TYPE_CHECKING"
        for node in ast.walk(guard)
    }
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "serpy":
            for alias in node.names:
                yield node.lineno, node.module if node.module != "serpy" else f"serpy.{alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "serpy":
                    yield node.lineno, alias.name


def files(pattern):
    return sorted((TOP / "serpy").glob(pattern))


CORE = [path for path in files("**/*.py") if "modules" not in path.relative_to(TOP / "serpy").parts]


@pytest.mark.parametrize("path", CORE, ids=[str(path.relative_to(TOP)) for path in CORE])
def test_a_core_file_imports_only_what_lies_below_it(path):
    layer = path.relative_to(TOP / "serpy").parts[0].removesuffix(".py")
    wrong = [
        (line, module)
        for line, module in imports(path)
        if (below := module.split(".")[1] if "." in module else "") not in ALLOWED[layer] | {layer}
        and not below.startswith("__")
        and module != "serpy"
    ]
    assert wrong == []


MODULES = files("modules/**/*.py")


@pytest.mark.parametrize("path", MODULES, ids=[str(path.relative_to(TOP)) for path in MODULES])
def test_a_module_never_imports_another_module_nor_the_processes(path):
    own = path.relative_to(TOP / "serpy/modules").parts[0].removesuffix(".py")
    wrong = []
    for line, module in imports(path):
        parts = module.split(".")
        if (parts[1:2] == ["modules"] and len(parts) > 2 and parts[2] != own) or parts[1:2] in (
            ["workers"],
            ["master"],
            ["daemon"],
            ["loader"],
            ["pipeline"],
        ):
            wrong.append((line, module))
    assert wrong == []


@pytest.mark.parametrize("package", ["sip", "transaction"])
def test_the_pure_packages_touch_no_socket_clock_or_file(package):
    forbidden = {"socket", "select", "time", "os", "subprocess", "threading", "logging", "random", "pathlib"}
    found = []
    for path in files(f"{package}/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            found.extend((path.name, node.lineno, name) for name in names if name.split(".")[0] in forbidden)
    assert found == []
