#!/usr/bin/env bash
# Trains the default model with p = 0, p = 2, p from 2 to -2, signed p and GRPO, one after another over one Ray, and draws them
# together; the same command goes on where it was stopped. Any Hydra override may follow, and name= and arms=:
#   bash scripts/compare_local.sh name=narrow arms=p0,signed,gspo sequence_clip_range=0.01
set -euo pipefail
script=$(realpath "${BASH_SOURCE[0]}")
cd "$(dirname "$script")/.."
source scripts/help.sh "$script" "$@"
export HOLDERPO_COMMAND="bash scripts/compare_local.sh ${*@Q}"
bash scripts/setup.sh
exec .venv/bin/python -m recipe.holderpo.launch.compare "$@"
