"""``serpy -c`` and ``serpyctl check`` on good and broken files: every mistake with its place and what to do."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest
from support.patience import PATIENCE_S
from support.running import BIN, CONFIG

CORPUS = Path(__file__).parent.parent / "corpus" / "broken_conf"
BROKEN = sorted(CORPUS.glob("*.conf"))


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / words[0]), *map(str, words[1:])], capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )


def expected_errors(path: Path) -> list[dict]:
    return tomllib.loads(path.with_suffix(".toml").read_text(encoding="utf-8"))["error"]


def test_there_are_at_least_twenty_broken_files():
    assert len(BROKEN) >= 20


@pytest.mark.parametrize("option", ["-c", "--check-config"])
def test_a_good_file_is_ok(option):
    done = run("serpy", option, "-f", CONFIG)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "config file ok, exiting\n"


@pytest.mark.parametrize("path", BROKEN, ids=[path.stem for path in BROKEN])
def test_every_mistake_has_its_place_and_what_to_do(path):
    done = run("serpy", "-c", "-f", path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    errors = expected_errors(path)
    for error in errors:
        place = f"{path}:{error['line']}:{error['column']}: "
        (line,) = [line for line in done.stderr.splitlines() if place in line]
        assert error["message"] in line
        assert error["hint"] in done.stderr
    assert done.stderr.splitlines()[-1] == f"{len(errors)} error{'s'[: len(errors) > 1]} in the configuration"


@pytest.mark.parametrize("path", BROKEN, ids=[path.stem for path in BROKEN])
def test_every_message_says_what_to_do_about_it(path):
    blocks = run("serpy", "-c", "-f", path).stderr.split(f"{path}:")[1:]
    assert len(blocks) == len(expected_errors(path))
    for block in blocks:
        assert "hint: " in block or any(word in block for word in ("; ", " is missing", " is 1 to ")), block


def test_a_file_that_is_not_there_is_named():
    done = run("serpy", "-c", "-f", CORPUS / "none.conf")
    assert done.returncode == 2
    assert str(CORPUS / "none.conf") in done.stderr


def test_serpyctl_checks_a_file_likewise():
    assert run("serpyctl", "check", CONFIG).returncode == 0
    done = run("serpyctl", "check", BROKEN[0])
    assert done.returncode == 2
    assert f"{BROKEN[0]}:7:5: unknown function 't_rellay'" in done.stderr
    assert "did you mean 't_relay'?" in done.stderr
