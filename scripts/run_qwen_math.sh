#!/usr/bin/env bash
# The paper's mathematical run on one node or many; any Hydra override may follow:
#   bash scripts/run_qwen_math.sh                                              # Qwen2.5-Math-7B on this node's 4 GPUs
#   bash scripts/run_qwen_math.sh model=qwen3_8b_base trainer.n_gpus_per_node=8
#   bash scripts/run_qwen_math.sh rehearse=true ...                            # this very run in small, on this machine's CPU
#   NNODES=2 NODE_RANK=0 HEAD_ADDR=10.0.0.1 bash scripts/run_qwen_math.sh trainer.n_gpus_per_node=8   # and rank 1 on the other
# PYTHON names the environment's interpreter; docs/multi-node.md has the rest.
set -euo pipefail
script=$(realpath "${BASH_SOURCE[0]}")
cd "$(dirname "$script")/.."
source scripts/help.sh "$script" "$@"
export HOLDERPO_COMMAND="bash scripts/run_qwen_math.sh ${*@Q}"  # for the line that says how to resume
for override in "$@"; do
    if [[ $override =~ ^\+*rehearse=[Tt]rue$ ]]; then # with the CPU's environment
        PYTHON="" bash scripts/setup.sh
        PYTHON=.venv/bin/python
    fi
done
exec "${PYTHON:-python}" -m recipe.holderpo.launch hardware=gpu task=math model=qwen2.5_math_7b "$@"
