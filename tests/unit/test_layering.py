"""Arrows between the packages point one way only (style guide, "Layers")."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
VALUES = {"errors", "clock", "limited_log", "sip"}
SHARED = {"shm", "net", "db", "rpc", "config", "log"}
# Who may import what, by the first name below serpy. A package may always import itself.
ALLOWED = {
    "errors": set(),
    "clock": set(),
    "limited_log": set(),
    "sip": {"errors"},
    "context": VALUES,
    "transaction": VALUES | {"context"},
    "script": VALUES | {"context"},
    "shm": VALUES,
    "config": VALUES | {"shm"},
    "log": VALUES | {"log_sinks"},
    "log_sinks": set(),
    "run_dir": {"errors"},
    "net": VALUES | {"config"},
    "db": VALUES | {"net", "shm", "config"},
    "rpc": VALUES | SHARED | {"api", "script", "trust"},
    "tools": VALUES | {"shm", "db", "rpc", "config", "log", "loader", "run_dir", "script"},
    "rtp": VALUES | {"context"} | {"net", "shm", "script", "api"},
    "trust": VALUES | {"shm", "context"},
    "api": VALUES | {"context"} | SHARED | {"transaction", "script"},
    "replication": VALUES | {"context"} | SHARED | {"api", "script"},
    "call_order": VALUES | {"transaction"},
    "pipeline": VALUES | {"context"} | SHARED | {"transaction", "script", "api", "call_order", "trust"},
    "loader": VALUES | {"context"} | SHARED | {"run_dir", "transaction", "script", "api", "modules", "trust"},
    "workers": VALUES | {"context"} | SHARED | {"transaction", "script", "api", "pipeline", "replication"},
    "policy": set(),
    "master": VALUES | SHARED | {"api", "workers", "policy"},
    "daemon": VALUES | SHARED | {"api", "workers", "master", "run_dir", "loader"},
    "__main__": {"daemon"},
    "__init__": set(),
}


def is_type_checking(node):
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


@functools.cache
def imports(path):
    """(line, module) of every import that happens at run time, wherever it stands; those for the type checker are free."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {node for guard in ast.walk(tree) if is_type_checking(guard) for node in ast.walk(guard)}
    found = []
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            found.extend((node.lineno, name if path_of(name) else node.module) for name in inside)
        elif isinstance(node, ast.Import):
            found.extend((node.lineno, alias.name) for alias in node.names)
    return found


def own_imports(path):
    return [(line, module) for line, module in imports(path) if module.split(".")[0] == "serpy"]


def path_of(module):
    """The file of a module of ours, None for all others."""
    if module.split(".")[0] != "serpy":
        return None
    base = TOP.joinpath(*module.split("."))
    return next((path for path in (base / "__init__.py", base.with_suffix(".py")) if path.exists()), None)


def reached_from(*paths):
    """All our files that importing *paths* runs: file -> the one that led there."""
    came_from = dict.fromkeys(paths)
    waiting = list(paths)
    while waiting:
        path = waiting.pop()
        for _, module in own_imports(path):
            parts = module.split(".")
            for length in range(1, len(parts) + 1):  # a package's own file runs first
                found = path_of(".".join(parts[:length]))
                if found is not None and found not in came_from:
                    came_from[found] = path
                    waiting.append(found)
    return came_from


def files(pattern):
    return sorted((TOP / "serpy").glob(pattern))


CORE = [path for path in files("**/*.py") if "modules" not in path.relative_to(TOP / "serpy").parts]


@pytest.mark.parametrize("path", CORE, ids=[str(path.relative_to(TOP)) for path in CORE])
def test_a_core_file_imports_only_what_lies_below_it(path):
    layer = path.relative_to(TOP / "serpy").parts[0].removesuffix(".py")
    wrong = [
        (line, module)
        for line, module in own_imports(path)
        if (below := module.split(".")[1] if "." in module else "") not in ALLOWED[layer] | {layer}
        and not below.startswith("__")
        and module != "serpy"
    ]
    assert wrong == []


# What a module may import at run time besides itself, as serpy/api.py says. The first list is everybody's.
FOR_ALL = {
    "api", "errors", "context", "sip", "limited_log",
    "script.exports", "script.formats", "script.param_sets", "script.attribute_rows",
    "script.patterns", "script.posix", "script.substitution",
}  # fmt: skip
TABLES = {
    "db.cache",
    "db.schema",
    "db.snapshot",
    "db.sweep",
    "db.frames",
    "db.sql",
    "db.idioms",
}  # nothing that connects
LENT = {
    "tm": {"transaction", "net", "rpc.asked"},
    "sl": {"transaction"},
    "usrloc": {"shm", *TABLES},
    "registrar": {"replication", "shm"},
    "rr": {"shm", "net.steering", "transaction.user", "run_dir"},
    "replication": {"replication", "net"},
    "nathelper": {"rtp"},
    "rtpengine": {"rtp"},
    "rtpproxy": {"rtp"},
    "ctl": {"rpc"},
    "xmlrpc": {"rpc", "net"},
    "avp": {"script.environment"},
    "eval": {"script.environment", "script.selects"},
    "auth": {"shm.kept", "shm.lock", "script.networks"},
    "maxfwd": {"shm"},
    "trust": {"trust"},
    **{name: {"db"} for name in ("db_mysql", "db_postgres")},
    "db_sqlite": {"db", "run_dir"},
    **dict.fromkeys(("acc_db", "auth_db", "avp_db", "db_ops", "domain", "gflags", "speeddial", "uri_db"), TABLES),
}
LENT["db_ops"] = TABLES | {"script.environment"}
MODULES = files("modules/**/*.py")


@pytest.mark.parametrize("path", MODULES, ids=[str(path.relative_to(TOP)) for path in MODULES])
def test_a_module_imports_what_all_may_and_what_is_lent_to_it(path):
    own = path.relative_to(TOP / "serpy/modules").parts[0].removesuffix(".py")
    allowed = FOR_ALL | LENT.get(own, set()) | {f"modules.{own}"}
    wrong = []
    for line, module in own_imports(path):
        below = module.removeprefix("serpy.")
        if not any(f"{below}.".startswith(f"{name}.") for name in allowed) and module != "serpy":
            wrong.append((line, module))
    assert wrong == []


def test_nothing_is_lent_that_is_not_used():
    used = {}
    for path in MODULES:
        own = path.relative_to(TOP / "serpy/modules").parts[0].removesuffix(".py")
        used.setdefault(own, set()).update(module.removeprefix("serpy.") for _, module in own_imports(path))
    idle = [
        (module, name)
        for module, names in LENT.items()
        for name in names - TABLES
        if not any(f"{below}.".startswith(f"{name}.") for below in used[module])
    ]
    assert idle == []


IMPURE = {"socket", "select", "time", "os", "subprocess", "threading", "logging", "random", "pathlib"}


@pytest.mark.parametrize("package", ["sip", "context", "transaction"])
def test_nothing_the_pure_packages_lead_to_touches_a_socket_a_clock_or_a_file(package):
    reached = reached_from(*files(f"{package}/**/*.py"))
    found = [
        (str(path.relative_to(TOP)), line, module, f"by {came_from and came_from.relative_to(TOP)}")
        for path, came_from in reached.items()
        for line, module in imports(path)
        if module.split(".")[0] in IMPURE
    ]
    assert found == []


def test_the_server_never_loads_the_programs_beside_it():
    reached = reached_from(TOP / "serpy/__main__.py", *MODULES, *files("workers/*.py"))
    assert not [path for path in reached if "tools" in path.parts]


def test_sercmd_which_timer_routes_start_loads_few_of_our_files():
    names = {str(path.relative_to(TOP / "serpy")) for path in reached_from(TOP / "serpy/tools/sercmd.py")}
    assert names == {
        "__init__.py", "errors.py", "tools/sercmd.py",
        "rpc/__init__.py", "rpc/addresses.py", "rpc/binrpc.py", "rpc/protocol.py", "sip/__init__.py", "sip/own_lines.py",
            "sip/text.py",
    }  # fmt: skip
