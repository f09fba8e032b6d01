#!/usr/bin/env bash
# One node's task of a Slurm job: runs a command, and writes the exit status of the head's to STATUS_FILE.
#   srun bash scripts/slurm/task.sh bash scripts/run_qwen_math.sh ...
# Slurm's notice before the time limit goes to this process alone: it passes SIGTERM on, and stays until the run has saved.
set -uo pipefail
"$@" &
run=$!
trap 'kill -TERM "$run" 2>/dev/null' TERM
# A signal ends `wait` with a status of its own; bash keeps that of a child that has ended for another `wait`.
while kill -0 "$run" 2>/dev/null; do
    wait "$run"
done
wait "$run"
status=$?
if [[ ${SLURM_NODEID:-0} == 0 ]]; then
    echo "$status" >"$STATUS_FILE"
fi
exit "$status"
