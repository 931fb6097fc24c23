#!/usr/bin/env bash
# Install serpy from this tree into a virtual environment: what make run, make bench and tests/run.sh all do.
# usage: tests/install.sh VENV [EXTRA]     SERPY_PURE=1 = compile nothing. Writes VENV/.installed at the end; as long as
# nothing is newer than that, and it says that the same was asked for, nothing is done again.
set -eu
cd "$(dirname "$0")/.."
venv=$1
wanted=.${2:+[$2]}
asked="$wanted SERPY_PURE=${SERPY_PURE:-0}"

if [ "$(cat "$venv/.installed" 2>/dev/null)" = "$asked" ] &&
  [ -z "$(find serpy setup.py cold.h pyproject.toml tests/install.sh -name __pycache__ -prune -o -newer "$venv/.installed" -print -quit)" ]; then
  echo "serpy in $venv is up to date"
  exit 0
fi
rm -f "$venv/.installed"

if [ ! -x "$venv/bin/python" ]; then
  python=$(sh tests/python.sh)
  "$python" -c 'import venv, ensurepip' 2>/dev/null || {
    echo "$python cannot make virtual environments: apt-get install python3-venv" >&2
    exit 1
  }
  "$python" -m venv "$venv"
fi
if [ "${SERPY_PURE:-0}" = 1 ]; then
  echo "installing serpy in $venv, pure Python ..."
else
  echo "installing serpy in $venv (compiles the hot parts, one to two minutes) ..."
fi
rm -rf build/lib build/lib.* build/bdist.* # what an earlier build left would be installed too
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# One run of pip: it builds a folder anew each time, so a second run would compile again.
"$venv/bin/python" -m pip install --disable-pip-version-check --no-input "$wanted" >"$log" 2>&1 || {
  cat "$log" >&2
  exit 1
}
if [ "${SERPY_PURE:-0}" != 1 ] && ! compgen -G "$venv/lib/python*/site-packages/serpy/pipeline*.so" >/dev/null; then
  echo "serpy is installed as pure Python: the same server, slower. To compile it: apt-get install gcc python3-dev" >&2
fi
echo "$asked" >"$venv/.installed"
