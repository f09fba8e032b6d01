#!/usr/bin/env bash
# Trains the embedded default on this machine's CPU; sets itself up first. Any Hydra override may follow:
#   bash scripts/run_local.sh holder.p_start=1 holder.p_end=-1
set -euo pipefail
script=$(realpath "${BASH_SOURCE[0]}")
cd "$(dirname "$script")/.."
source scripts/help.sh "$script" "$@"
export HOLDERPO_COMMAND="bash scripts/run_local.sh ${*@Q}"  # for the line that says how to resume
bash scripts/setup.sh
exec .venv/bin/python -m recipe.holderpo.main "$@"
