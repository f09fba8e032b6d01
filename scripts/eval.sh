#!/usr/bin/env bash
# Evaluates a model on mathematical benchmarks with vLLM; every key of conf/evaluation/eval.yaml may follow:
#   bash scripts/eval.sh model=Qwen/Qwen2.5-Math-7B run=base
#   PYTHON=python bash scripts/eval.sh ...      # an environment of yours instead of .venv
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec "${PYTHON:-.venv/bin/python}" -m recipe.holderpo.evaluation "$@"
