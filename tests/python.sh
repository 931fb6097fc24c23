#!/bin/sh
# Print the interpreter that serpy is built and run with; Makefile and tests/run.sh both ask here.
# PYTHON set: that one. Else Debian's /usr/bin/python3 when it can do the job, because it is built with PGO and LTO and
# is profile-guided and faster than most built at home. Else python3 from PATH. Status 1: there is none.
set -u

usable() { # program: Python 3.11 or later that can make virtual environments and compile extensions
  "$1" -c '
import os, sys, sysconfig
import ensurepip, venv
header = os.path.join(sysconfig.get_path("include"), "Python.h")
sys.exit(sys.version_info < (3, 11) or not os.path.exists(header))
' >/dev/null 2>&1
}

if [ -n "${PYTHON:-}" ]; then
  echo "$PYTHON"
elif usable /usr/bin/python3; then
  echo /usr/bin/python3
elif python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
  command -v python3
else
  echo "serpy needs Python 3.11 or later: apt-get install python3 python3-venv" >&2
  exit 1
fi
