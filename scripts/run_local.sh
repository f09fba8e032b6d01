#!/usr/bin/env bash
# Trains the embedded default on this machine's CPU; sets itself up first. Any Hydra override may follow:
#   bash scripts/run_local.sh holder.p_start=1 holder.p_end=-1
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
exec .venv/bin/python -m recipe.holderpo.main "$@"
