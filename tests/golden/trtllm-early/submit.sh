#!/bin/sh
# Submits this deployment; nemodeploy runs this very file, and so can you on a login node:
#
#   sh submit.sh [RUN_DIR [JOB_NAME [--test-only]]]
#
# RUN_DIR must be on a file system that all nodes share, and hold nemo_inference.sh and nemo_inference.sbatch
# (default: the directory of this file). Prints the job id.
set -eu
run_dir=${1:-$(cd "$(dirname "$0")" && pwd)}
job_name=${2:-nd-nemotron-3-8b-chat-4k-rlhf-by-hand}

# What a login shell may set changes what sbatch does: its variables beat the script's own lines.
for name in $(env | while IFS='=' read -r name _; do case $name in SBATCH_[A-Z]*) echo "$name" ;; esac; done); do
  unset "$name"
done
unset SLURM_JWT SLURM_CLUSTERS

exec sbatch --parsable ${3:+"$3"} \
  --job-name="$job_name" \
  --dependency=singleton \
  --chdir="$run_dir" \
  --output=slurm-%j.log \
  --open-mode=append \
  --export=PATH,HOME,USER,LOGNAME \
  --partition=batch \
  '--account=it'"'"'s $HOME; #x' \
  --gpus-per-node=1 \
  "$run_dir/nemo_inference.sbatch" "$run_dir" "$job_name"
