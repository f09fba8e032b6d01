#!/usr/bin/env bash
# Evaluates a model on mathematical benchmarks with vLLM; every key of conf/evaluation/eval.yaml may follow:
#   bash scripts/eval.sh model=Qwen/Qwen2.5-Math-7B run=base
#   bash scripts/eval.sh rehearse=true model=...                    # the same in small, on this machine's CPU
#   bash scripts/eval.sh hardware=cpu model=outputs/my-run ...      # with the CPU environment of scripts/setup.sh
# PYTHON names another environment's interpreter.
set -euo pipefail
script=$(realpath "${BASH_SOURCE[0]}")
cd "$(dirname "$script")/.."
source scripts/help.sh "$script" "$@"
for override in "$@"; do
    if [[ $override == hardware=cpu ]]; then
        exec "${PYTHON:-.venv/bin/python}" -m recipe.holderpo.evaluation "$@"
    fi
    if [[ $override =~ ^\+*rehearse=[Tt]rue$ ]]; then # with the CPU's environment
        PYTHON="" bash scripts/setup.sh
        PYTHON=.venv/bin/python
    fi
done
exec "${PYTHON:-python}" -m recipe.holderpo.evaluation "$@"
