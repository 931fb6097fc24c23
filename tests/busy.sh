#!/usr/bin/env bash
# The test command on a busy machine: beside it runs one process for each core that only counts.
# usage: tests/busy.sh [TIMES [COMMAND…]]    default: 10 make test. Stops at the first failure; logs in .busy/
set -u
cd "$(dirname "$0")/.."
times=${1:-10}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- make test
logs=$PWD/.busy
mkdir -p "$logs"

burners=""
command=""
stop() { # also when interrupted: bash runs a trap while it waits, not while a command runs
  # shellcheck disable=SC2086 - lists of process ids
  kill $command $burners 2>/dev/null
}
trap stop EXIT
trap 'exit 130' INT TERM
for _ in $(seq "$(nproc)"); do
  (while :; do :; done) &
  burners="$burners $!"
done

for run in $(seq "$times"); do
  log=$logs/run-$run.log
  started=$SECONDS
  "$@" >"$log" 2>&1 &
  command=$!
  if wait "$command"; then
    printf 'run %d of %d: passed in %d s\n' "$run" "$times" $((SECONDS - started))
  else
    printf 'run %d of %d: FAILED after %d s, see %s\n' "$run" "$times" $((SECONDS - started)) "$log"
    tail -n 30 "$log"
    exit 1
  fi
done
command=""
