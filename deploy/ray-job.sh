#!/bin/bash
# One job on a Ray cluster that is already there: RAY_ADDRESS=http://HEAD:8265 deploy/ray-job.sh INPUTS OUTPUT [OPTIONS OF score]
# Its nodes have this package with the extras `ray` and `stores` (deploy/Dockerfile, target ray), and see INPUTS and OUTPUT:
# a store, or a file system that they share. The same command again resumes the job.
# Not run on a cluster of several machines. Tests check its syntax, and the command that it submits.
set -euo pipefail

: "${RAY_ADDRESS:?the address of the dashboard, such as http://head:8265}"
inputs=$1 output=$2
shift 2
exec ray job submit --address "$RAY_ADDRESS" -- \
  quality-model score "$inputs" --output "$output" --on auto "$@"
