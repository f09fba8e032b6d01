#!/usr/bin/env bash
# Without arguments: everything CI checks. With arguments: pytest with those arguments alone.
#   bash scripts/test.sh
#   bash scripts/test.sh tests/core -k gradcheck
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh alfworld
if (($#)); then
    exec .venv/bin/python -m pytest "$@"
fi
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
.venv/bin/python -m pytest -m "not stack" -n 2 --dist loadfile
exec .venv/bin/python -m pytest -m stack # a run of the stack needs the machine for itself
