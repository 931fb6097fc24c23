"""What is written in C: the compiler has nothing to say about it."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
SOURCES = sorted((TOP / "serpy").rglob("*.c"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_the_compiler_finds_nothing_to_warn_of(source, tmp_path):
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not shutil.which("gcc") or not header.exists():
        pytest.skip("no gcc or no Python.h")
    command = ["gcc", "-isystem", header.parent, "-std=c11", "-O2", "-fanalyzer", "-Wall", "-Wextra", "-Wconversion",
               "-Wshadow", "-Werror", "-c", source, "-o", tmp_path / "native.o"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_each_source_goes_into_the_source_distribution_and_is_built():
    told = (TOP / "MANIFEST.in").read_text() + (TOP / "setup.py").read_text()
    assert len(SOURCES) == 2
    for source in SOURCES:
        assert told.count(str(source.relative_to(TOP))) == 2
