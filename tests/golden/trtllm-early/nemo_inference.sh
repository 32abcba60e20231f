#!/bin/bash
# nemotron-3-8b-chat-4k-rlhf by NeMo's deploy_triton.py: one process of 1.
#
#   nemo_inference.sh RUN_DIR EPOCH_DIR PORT [HEAD MASTER_PORT]
#
# The job's script starts it once per task. RUN_DIR is this deployment's directory, EPOCH_DIR the directory of this
# run of the job below it, PORT where the first process serves, HEAD the host it runs on, MASTER_PORT where the
# processes find each other.
# NOTE: the server listens on every interface of its node, without a password
# NOTE: Triton opens 8001 (gRPC) and 8002 (metrics) on every interface, whatever its HTTP port
# NOTE: nemotron-3-8b-chat-4k-rlhf: the download asks you to accept its licence first
set -u
# --- Environment: the site's own words, then secrets from a file that only the owner can read.
export NCCL_SOCKET_IFNAME=ib0
export ODD='a'"'"'b $c `d` \ e
f'
if [ -r "$1/secrets.env" ]; then
  set -a
  # shellcheck source=/dev/null
  . "$1/secrets.env"
  set +a
fi

epoch_dir=$2 port=$3
rank=${SLURM_PROCID:-0}
local_rank=${SLURM_LOCALID:-0}
# A place of our own to write to; removed at the end. A container need not have the host's TMPDIR, nor a home.
[ -w "${TMPDIR:-/tmp}" ] || TMPDIR=/tmp
scratch=${TMPDIR:-/tmp}/nemodeploy.${SLURM_JOB_ID:-$$}.$rank
if [ ! -w "${HOME:-/nowhere}" ]; then
  export HOME=$scratch/home
  mkdir -p "$HOME"
fi

export PYTRITON_HOME=$scratch/pytriton # it unpacks Triton there
# The script makes its ranks itself by MPI, which must not take this one task for a rank of a Slurm step.
for name in $(compgen -e); do
  case $name in SLURM_* | PMI_* | PMI2_* | PMIX_* | OMPI_*) unset "$name" ;; esac
done
program=(/opt/nemo-trtllm-early/run)
arguments=(
  --nemo_checkpoint=/model
  --model_type=gptnext
  --triton_model_name=nemotron-3-8b-chat-4k-rlhf
  --triton_http_address=0.0.0.0
  --num_gpus=1
  --dtype=bfloat16
  --max_input_len=3072
  --max_output_len=1024
  --max_batch_size=8
  --service_port=1
  "--triton_port=$port"
  # It deletes everything in this directory first, so it gets a new one.
  "--triton_model_repository=$scratch/engine"
)

# --- Run the server program as our child, so that its end is recorded whatever it is.
server=
asked=
write_whole() { printf '%s\n' "$2" >"$1.new" && mv -f "$1.new" "$1"; }
stop_server() {
  asked=yes
  [ -z "$server" ] || kill -INT "$server" 2>/dev/null
}
# srun forwards USR2 to every process of the step without asking the controller (TERM it turns into KILL; seen on
# Slurm 22.05). So USR2 is our word for "stop gently", and the server program itself must not hear it. TERM is the
# scheduler's own word, which a job hears some time before it is preempted.
trap stop_server USR2
trap stop_server TERM INT
(
  trap '' USR2
  trap - INT # bash starts background commands deaf to INT, and some servers end in order on that only
  exec "${program[@]}" "${arguments[@]}"
) &
server=$!
[ -z "$asked" ] || stop_server

helpers=()
# Where something else than the step is our parent, what started us can be killed outright without our noticing.
if [ -n "${NEMODEPLOY_KEEPER:-}" ]; then
  (
    trap '' USR2
    # It ends with the server by itself, too: now and then bash 5.2 loses the TERM that it is sent below.
    while [ -d "/proc/$NEMODEPLOY_KEEPER" ] && kill -0 "$server" 2>/dev/null; do sleep 1; done
    [ -d "/proc/$NEMODEPLOY_KEEPER" ] || kill -KILL "$server" 2>/dev/null # nobody is left to want more than its end
  ) >/dev/null 2>&1 </dev/null & # whoever waits for the end of our output does not wait for this
  helpers+=("$!")
fi

# One heartbeat per node; the supervisor notices when it stands still.
if [ "$local_rank" -eq 0 ]; then
  (
    trap '' USR2
    nap= # waited for, so that TERM is heard at once, but never in the middle of a write
    trap 'kill $nap 2>/dev/null; exit' TERM
    beat=0
    printf -v pause '%d.%02d' 5 0
    while kill -0 "$server" 2>/dev/null; do
      beat=$((beat + 1))
      write_whole "$epoch_dir/ranks/$rank.beat" "$beat"
      sleep "$pause" &
      nap=$!
      wait "$nap"
    done
  ) &
  helpers+=("$!")
fi

# A trap ends `wait` early, so wait until the child is really gone; bash keeps its status for the last `wait`.
while kill -0 "$server" 2>/dev/null; do wait "$server"; done
wait "$server"
status=$?
for helper in ${helpers[@]+"${helpers[@]}"}; do # nothing of ours goes on after the end is told
  kill "$helper" 2>/dev/null
  wait "$helper" 2>/dev/null
done
write_whole "$epoch_dir/ranks/$rank.rc" "$status"
rm -rf "$scratch"
exit "$status"
