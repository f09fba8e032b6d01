#!/usr/bin/env bash
# The first argument names one of scripts/, or is a command of its own:
#   docker run IMAGE run_qwen_math.sh model=qwen3_8b_base
#   docker run IMAGE python -m recipe.holderpo.doctor hardware=gpu
set -euo pipefail
cd /opt/holderpo
name=${1:-}
if [[ -n $name && -f scripts/$name ]]; then
    shift
    exec bash "scripts/$name" "$@"
fi
exec "$@"
