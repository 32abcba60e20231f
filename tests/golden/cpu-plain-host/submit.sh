#!/bin/sh
# Starts this deployment on this very host; nemodeploy runs this file, and so can you:
#
#   sh submit.sh [RUN_DIR [NAME]]
#
# RUN_DIR must hold nemo_inference.sh and nemo_inference.job (default: the directory of this file). Prints the process
# id of the supervisor; TERM to it ends everything in order.
set -eu
run_dir=${1:-$(cd "$(dirname "$0")" && pwd)}
name=${2:-nd-tiny-by-hand}
fail() {
  echo "nothing was started: $1" >&2
  exit 1
}
command -v bash >/dev/null || fail "bash is not installed here"
command -v setsid >/dev/null || fail "setsid is not installed here"

cd "$run_dir"
: "${USER:=$(id -un)}" "${LOGNAME:=$USER}"
# An empty environment, save for what a program needs to find itself: nothing of this login reaches the server.
# A shell starts what it puts into the background deaf to INT, for good; only bash can undo that.
pid=$(bash -c '(trap - INT; exec setsid env -i "$@" </dev/null >job.log 2>&1) & echo "$!"' start \
  ${PATH:+PATH="$PATH"} \
  ${HOME:+HOME="$HOME"} \
  ${USER:+USER="$USER"} \
  ${LOGNAME:+LOGNAME="$LOGNAME"} \
  nohup bash "$run_dir/nemo_inference.job" "$run_dir" "$name")
# Process id, start in clock ticks since boot, and the boot: together they name this process for ever. The host's name
# tells a reboot from another host that shares this directory.
start=$(sed 's/.*) //' "/proc/$pid/stat" | cut -d' ' -f20)
echo "$pid $start $(cat /proc/sys/kernel/random/boot_id) 14400 $(uname -n)" >host.job.new
mv host.job.new host.job
echo "$pid"
