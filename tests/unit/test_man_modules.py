"""The manual page of the modules says what the modules export now."""

import importlib.util
import sys
from pathlib import Path

import pytest

from serpy.modules import auth

ROOT = Path(__file__).resolve().parents[2]


def generator():
    spec = importlib.util.spec_from_file_location("man_generate", ROOT / "man" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


@pytest.mark.skipif(not auth.__file__.endswith(".py"), reason="compiled modules carry no docstrings to write from")
def test_the_page_is_up_to_date():
    found = generator()
    assert found.PAGE.read_text(encoding="utf-8") == found.page(), "run: python man/generate.py"


def test_every_function_and_parameter_has_a_summary():
    found = generator()
    missing = []
    for path in sorted((ROOT / "serpy" / "modules").iterdir()):
        name = path.stem
        if name.startswith("_") or (path.is_file() and path.suffix != ".py"):
            continue
        imported = importlib.import_module(f"serpy.modules.{name}")
        if hasattr(imported, "exports"):
            exports = imported.exports()
            missing += [f"{name}.{row.name}" for row in (*exports.functions, *exports.params) if not row.summary]
    assert missing == []
    assert found.escaped(".a-b\\") == "\\&.a\\-b\\e"


def test_optional_arguments_stand_in_brackets():
    lines = generator().module_lines("xlog")
    assert '.BI xlog( "format[, format]" )' in lines
