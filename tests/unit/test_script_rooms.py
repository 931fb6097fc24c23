"""How the files of the script package stand to each other."""

import ast
from pathlib import Path

import pytest

from serpy import script

ROOM = Path(script.__file__ or next(iter(script.__path__)) + "/x").parent
FILES = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in ROOM.glob("*.py")}


def imports(name):
    """The files of the package that *name* imports, for the type checker alone or not."""
    found = set()
    for node in ast.walk(FILES[name]):
        if isinstance(node, ast.ImportFrom) and node.module == "serpy.script":
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("serpy.script."):
            found.add(node.module.removeprefix("serpy.script."))
    return found & set(FILES)


def reached(name):
    """Every file that *name* imports, or that one of those imports."""
    found, pending = set(), [name]
    while pending:
        new = imports(pending.pop()) - found
        found |= new
        pending.extend(new)
    return found


@pytest.mark.parametrize("name", sorted(FILES))
def test_no_file_imports_itself_by_a_detour(name):
    assert name not in reached(name)


@pytest.mark.parametrize("name", ["code", "unit", "output", "runtime", "scalars", "networks", "patterns", "hooks"])
def test_what_is_compiled_and_where_it_goes_lies_below_who_writes_code(name):
    writers = {"coder", "arguments", "comparisons", "conditions", "calls", "in_place", "expressions", "codegen"}
    assert not reached(name) & writers


def test_values_and_operands_touch_no_socket_clock_file_or_log():
    outside = {"logging", "os", "socket", "time", "select", "subprocess", "random", "pathlib"}
    for name in ("scalars", "patterns", "networks", "runtime"):
        for node in ast.walk(FILES[name]):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not outside & set(names)


GRAMMARS = "_PARSERS"  # Lark's tables, made from the grammar at first use: the same for every program


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_program_leaves_nothing_behind_in_the_process(name):
    """No table that is empty when the module is loaded: it would be filled by whoever comes last."""
    for node in FILES[name].body:
        value = node.value if isinstance(node, (ast.Assign, ast.AnnAssign)) else None
        empty = (isinstance(value, ast.Dict) and not value.keys) or (isinstance(value, ast.List) and not value.elts)
        assert not empty or GRAMMARS in ast.unparse(node)
