"""Broken configurations: every error is reported, with file, line, column, the line, a caret and a hint."""

import tomllib
from pathlib import Path

import pytest
from support.scripts import World

from serpy.script.compile import ScriptErrors, compile_script

CORPUS = Path(__file__).parent.parent / "corpus" / "broken_conf"
FILES = sorted(CORPUS.glob("*.conf"))


def errors_of(path):
    with pytest.raises(ScriptErrors) as caught:
        compile_script(str(path), {}, World().environment())
    return caught.value


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_broken_file_reports_every_error_where_it_is(path):
    expected = tomllib.loads(path.with_suffix(".toml").read_text())["error"]
    found = errors_of(path)
    places = [(error.line, error.column) for error in found.errors]
    assert places == [(entry["line"], entry["column"]) for entry in expected], str(found)
    for error, entry in zip(found.errors, expected, strict=True):
        assert entry["message"] in error.message
        assert entry["hint"] in error.hint
        assert error.file == str(path)


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_broken_file_shows_the_line_and_a_caret(path):
    lines = path.read_text().splitlines()
    found = errors_of(path)
    for error, text in zip(found.errors, found.rendered, strict=True):
        shown = text.splitlines()
        assert shown[0].startswith(f"{path}:{error.line}:{error.column}: ")
        assert shown[1] == "    " + lines[error.line - 1]
        assert shown[2].index("^") == 4 + error.column - 1


def test_there_are_twenty_of_them():
    assert len(FILES) >= 20
