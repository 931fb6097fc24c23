#!/usr/bin/env bash
# The test command: installs what it needs, then lint, types, unit tests pure and compiled, system tests.
# usage: tests/run.sh [lint|pure|compiled]    (everything when none is given)
set -eu
cd "$(dirname "$0")/.."
top=$PWD
what=${1:-all}
python=${PYTHON:-python3}
venv=$top/${VENV:-.venv}
pure=$top/.venv-pure

need_debian() { # program package
  command -v "$1" >/dev/null 2>&1 && return 0
  missing="${missing:-} $2"
}

missing=""
need_debian sipp sip-tester
need_debian sipsak sipsak
need_debian cc gcc
[ -x /usr/lib/postgresql/15/bin/initdb ] || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$missing postgresql"
"$python" -c 'import venv, ensurepip' 2>/dev/null || missing="$missing python3-venv"
if [ -n "$missing" ]; then
  if [ "$(id -u)" = 0 ]; then
    echo "installing from Debian:$missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # shellcheck disable=SC2086
    apt-get install -y -qq --no-install-recommends $missing >/dev/null
  else
    echo "make test needs these Debian packages; install them as root, then run it again:" >&2
    echo "  apt-get install$missing" >&2
    exit 1
  fi
fi

make_venv() { # folder, SERPY_PURE
  [ -x "$1/bin/python" ] || "$python" -m venv "$1"
  "$1/bin/python" -m pip install -q --disable-pip-version-check '.[dev]'
  SERPY_PURE=$2 "$1/bin/python" -m pip install -q --disable-pip-version-check --force-reinstall --no-deps .
}

step() { printf '\n== %s\n' "$*"; }

# Tests run from a folder without the sources, so that "import serpy" finds the installed package.
run_pytest() { # venv, arguments…
  local env=$1
  shift
  (cd tests && "$env/bin/python" -m pytest -c "$top/pyproject.toml" --rootdir="$top" --import-mode=importlib "$@")
}

step "install, pure Python"
make_venv "$pure" 1
if [ "$what" = all ] || [ "$what" = lint ]; then
  step "ruff"
  "$pure/bin/ruff" check .
  "$pure/bin/ruff" format --check .
  step "mypy --strict"
  "$pure/bin/mypy"
  [ "$what" = lint ] && exit 0
fi
if [ "$what" = all ] || [ "$what" = pure ]; then
  step "unit and property tests, pure Python"
  run_pytest "$pure" unit property
fi
if [ "$what" = all ] || [ "$what" = compiled ]; then
  step "install, compiled"
  make_venv "$venv" 0
  touch "$venv/.installed"
  step "unit and property tests, compiled"
  run_pytest "$venv" unit property
  step "process and system tests, compiled"
  run_pytest "$venv" process system
fi
