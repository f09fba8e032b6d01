#!/usr/bin/env bash
# Without arguments: everything CI checks, each part even if one before it failed. With arguments: pytest with those alone.
#   bash scripts/test.sh
#   bash scripts/test.sh tests/core -k gradcheck
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh alfworld
if (($#)); then
    exec .venv/bin/python -m pytest "$@"
fi

results=() failed=0
part() { # NAME COMMAND...: run it, and keep its outcome and its seconds
    local name=$1 began=$SECONDS outcome=ok
    shift
    "$@" || outcome=FAILED failed=1
    results+=("$(printf '%-14s %-6s %4d s' "$name" "$outcome" $((SECONDS - began)))")
}

part "ruff check" .venv/bin/ruff check .
part "ruff format" .venv/bin/ruff format --check .
part mypy .venv/bin/mypy
# In the order of tests/conftest.py. Three processes for two cores: one that starts the stack waits a fifth of its time.
part pytest .venv/bin/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --durations=20
printf '%s\n' "${results[@]}"
exit "$failed"
