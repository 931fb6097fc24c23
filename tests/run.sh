#!/usr/bin/env bash
# The test command: installs what it needs, then lint, types, unit tests pure and compiled, system tests, fuzzing.
# usage: tests/run.sh [lint|pure|compiled]    (everything when none is given)
set -eu
cd "$(dirname "$0")/.."
top=$PWD
what=${1:-all}
venv=$top/${VENV:-.venv}
pure=$top/.venv-pure
fuzz_seconds=${FUZZ_SECONDS:-30}

PATH=$PATH:/usr/sbin:/sbin # where Debian keeps nft; the PATH of an ordinary user lacks them
ulimit -n "$(ulimit -Hn)" # the servers and receivers of the tests have many sockets

missing=""
need() { # package, test command…: the package is missing when the command fails
  local package=$1
  shift
  "$@" >/dev/null 2>&1 || missing="$missing $package"
}

# ---- Debian packages: root installs what is missing, anybody else is told -----------------------------------------
need sip-tester command -v sipp
need sipsak command -v sipsak
need baresip-core command -v baresip
need iproute2 command -v ip
need nftables command -v nft
need rtpengine-daemon command -v rtpengine
need gcc command -v cc
need openssl command -v openssl
need mariadb-server test -x /usr/sbin/mariadbd
need postgresql compgen -G '/usr/lib/postgresql/*/bin/initdb'
if [ -z "${PYTHON:-}" ]; then
  if [ ! -x /usr/bin/python3 ] && ! command -v python3 >/dev/null 2>&1; then missing="$missing python3 python3-venv python3-dev"; fi
  if [ -x /usr/bin/python3 ]; then
    need python3-venv /usr/bin/python3 -c 'import venv, ensurepip'
    need python3-dev /usr/bin/python3 -c \
      'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))'
  fi
fi
if [ -n "$missing" ]; then
  if [ "$(id -u)" != 0 ]; then
    echo "make test needs these Debian packages; install them as root, then run it again:" >&2
    echo "  apt-get install$missing" >&2
    exit 1
  fi
  echo "installing from Debian:$missing"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  # shellcheck disable=SC2086 - a list of words
  apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi

# ---- steps ---------------------------------------------------------------------------------------------------------
started=$SECONDS
step() { printf '\n== %s  (%d s)\n' "$*" $((SECONDS - started)); }

# Tests run from a folder without the sources, so that "import serpy" finds the installed package.
run_pytest() { # venv, arguments…
  local env=$1
  shift
  (cd tests && "$env/bin/python" -m pytest -c "$top/pyproject.toml" --rootdir="$top" --import-mode=importlib "$@")
}

# Unit and property tests share nothing: one process for each core. Process and system tests have servers, networks and
# databases of their own, and measure nothing, but want the machine for themselves.
at_once="-n $(nproc) --dist loadfile"

step "install, pure Python"
SERPY_PURE=1 bash tests/install.sh "$pure" dev
if [ "$what" = all ] || [ "$what" = lint ]; then
  step "ruff"
  "$pure/bin/ruff" check .
  "$pure/bin/ruff" format --check .
  step "mypy --strict"
  "$pure/bin/mypy"
fi
if [ "$what" = all ] || [ "$what" = pure ]; then
  step "unit and property tests, pure Python"
  run_pytest "$pure" unit property $at_once
  step "fuzz the parser for $fuzz_seconds s"
  # atheris has no build for every Python and is no dependency: without it the fuzzer makes random damage
  "$pure/bin/python" -m pip install -q --disable-pip-version-check --only-binary :all: atheris >/dev/null 2>&1 ||
    echo "atheris does not install on this Python: random damage"
  fuzz_log=$(mktemp)
  "$pure/bin/python" bench/fuzz_parser.py --seconds "$fuzz_seconds" >"$fuzz_log" 2>&1 || {
    cat "$fuzz_log" >&2
    exit 1
  }
  tail -n 1 "$fuzz_log"
  rm -f "$fuzz_log"
fi
if [ "$what" = all ] || [ "$what" = compiled ]; then
  step "install, compiled"
  SERPY_PURE=0 bash tests/install.sh "$venv" dev
  step "unit and property tests, compiled"
  run_pytest "$venv" unit property $at_once
  step "process and system tests, compiled"
  run_pytest "$venv" process system
fi
step "done"
