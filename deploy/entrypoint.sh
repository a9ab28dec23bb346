#!/bin/bash
# The image's entry point. A program's name runs that program (`docker run IMAGE sh`); anything else
# goes to `artifact`, beside which this script stays: it hands signals on, and says what happened
# where the kernel kills the run for want of memory.
set -u

if [ $# -eq 0 ]; then
  cat <<'TEXT'
Four commands to a first result, from a checkout, on any machine with Docker:

  docker build --tag privimage .
  docker run --rm privimage doctor
  mkdir -p runs && docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD/runs:/runs" privimage run kick_the_tires
  docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD/runs:/runs" privimage report

Then open runs/report.html. `docker run --rm privimage list` shows all claims, `docker run --rm privimage --help`
all commands; docs/container.md has one line for each claim, GPUs, and a run without network and privileges.
TEXT
  exit 0
fi
if type -P -- "$1" >/dev/null; then
  exec "$@"
fi

set -m # a process group of its own: Ctrl-C on a terminal reaches the run once, through the trap
artifact "$@" &
child=$!
trap 'kill -INT "$child"' INT
trap 'kill -TERM "$child"' TERM HUP
while :; do
  wait "$child" 2>/dev/null
  status=$?
  kill -0 "$child" 2>/dev/null || break # a signal ends the wait, not the run
done
if [ "$status" -eq 137 ]; then
  echo "error: the kernel killed the run (exit status 137), most likely because the container's memory" \
    "ran out; give it more (docker run --memory, the settings of Docker Desktop), then repeat the same" \
    "command: it continues the run" >&2
fi
exit "$status"
