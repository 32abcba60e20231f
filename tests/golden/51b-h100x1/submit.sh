#!/bin/sh
# Submits this deployment; nemodeploy runs this very file, and so can you on a login node:
#
#   sh submit.sh [RUN_DIR [JOB_NAME [--test-only]]]
#
# RUN_DIR must be on a file system that all nodes share, and hold nemo_inference.sh and nemo_inference.sbatch
# (default: the directory of this file). Prints the job id.
set -eu
run_dir=${1:-$(cd "$(dirname "$0")" && pwd)}
job_name=${2:-nd-llama-3-1-nemotron-51b-instruct-by-hand}

# sbatch sees what it needs itself, and hands all of that on. What a login shell may set beats the script's own lines;
# and with an explicit --export list a login shell is started on the node first: where that fails, the job is held.
exec env -i \
  ${PATH:+PATH="$PATH"} \
  ${HOME:+HOME="$HOME"} \
  ${USER:+USER="$USER"} \
  ${LOGNAME:+LOGNAME="$LOGNAME"} \
  ${SLURM_CONF:+SLURM_CONF="$SLURM_CONF"} \
  ${KRB5CCNAME:+KRB5CCNAME="$KRB5CCNAME"} \
  ${LD_LIBRARY_PATH:+LD_LIBRARY_PATH="$LD_LIBRARY_PATH"} \
  sbatch --parsable ${3:+"$3"} \
  --job-name="$job_name" \
  --dependency=singleton \
  --chdir="$run_dir" \
  --output=slurm-%j.log \
  --open-mode=append \
  --export=ALL \
  --partition=batch \
  '--account=it'"'"'s $HOME; #x' \
  --gpus-per-node=1 \
  "$run_dir/nemo_inference.sbatch" "$run_dir" "$job_name"
