#!/bin/bash
# One job on many nodes, which share a file system: sbatch deploy/slurm-array.sh INPUTS OUTPUT [OPTIONS OF score]
# Then the same once with --merge (docs/cluster.md).
# Not run on Slurm. Tests run what it does, by processes of one machine.
#SBATCH --job-name=score
#SBATCH --array=0-15
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=16
#SBATCH --mem-per-cpu=1G
#SBATCH --requeue
#SBATCH --output=score-%A-%a.log
set -euo pipefail

inputs=$1 output=$2
shift 2
exec quality-model score "$inputs" --output "$output" --part "$((SLURM_ARRAY_TASK_ID + 1))/$SLURM_ARRAY_TASK_COUNT" "$@"
