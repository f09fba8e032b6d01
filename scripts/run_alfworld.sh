#!/usr/bin/env bash
# ALFWorld; any Hydra override may follow:
#   bash scripts/run_alfworld.sh                                   # the paper's settings: Qwen2.5-1.5B-Instruct on this node's GPUs
#   bash scripts/run_alfworld.sh algo=grpo                         # or gmpo, or holder (p from 2 to -2)
#   bash scripts/run_alfworld.sh rehearse=true ...                 # such a run in small, on this machine's CPU
#   bash scripts/run_alfworld.sh hardware=cpu                      # the small real run on a CPU; sets itself up first
# PYTHON names the GPU environment's interpreter; docs/multi-node.md has several nodes.
set -euo pipefail
script=$(realpath "${BASH_SOURCE[0]}")
cd "$(dirname "$script")/.."
source scripts/help.sh "$script" "$@"
export HOLDERPO_COMMAND="bash scripts/run_alfworld.sh ${*@Q}"  # for the line that says how to resume
for override in "$@"; do
    if [[ $override == hardware=cpu ]]; then
        bash scripts/setup.sh alfworld
        exec .venv/bin/python -m recipe.holderpo.main task=alfworld_tiny model=alfworld_warm algo=holder_narrow "$@"
    fi
    if [[ $override =~ ^\+*rehearse=[Tt]rue$ ]]; then # with the CPU's environment
        PYTHON="" bash scripts/setup.sh alfworld
        PYTHON=.venv/bin/python
    fi
done
exec "${PYTHON:-python}" -m recipe.holderpo.launch hardware=gpu task=alfworld model=qwen2.5_1.5b_instruct algo=holder_narrow "$@"
