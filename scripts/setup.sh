#!/usr/bin/env bash
# Makes .venv at the repository root from requirements/cpu.lock and torch, with this project in it as an editable install:
# the versions of requirements/gpu.lock, which GPUs get, with vLLM's CPU build. Does nothing (in well under a second) when
# that is already done; run_local.sh and test.sh start with it.
#
#   bash scripts/setup.sh                        # Python: the first of python3.11, 3.12 that works
#   bash scripts/setup.sh alfworld               # with requirements/alfworld.txt, for task=alfworld
#   PYTHON=/path/to/python bash scripts/setup.sh
#
# A set-up that was interrupted is made again from nothing. Of several at once, one works and the others wait.
set -euo pipefail

UV_VERSION=0.13.8
MIN_FREE_GB=10 # with torch's build for CUDA, which may be the only one to be had

cd "$(dirname "${BASH_SOURCE[0]}")/.."
ROOT=$PWD
VENV=$ROOT/.venv
INCOMPLETE=$VENV/.holderpo-incomplete

say() { printf 'set-up: %s\n' "$*"; }
die() { printf 'set-up: error: %s\n' "$*" >&2; exit 1; }

# The path counts too: a virtual environment does not survive being moved.
inputs_hash() { { printf '%s\n' "$ROOT"; cat requirements/torch.lock requirements/cpu.lock setup.py; } | sha256sum | cut -c1-64; }
STAMP=$VENV/.holderpo-lock-$(inputs_hash)
ALFWORLD_STAMP=$VENV/.holderpo-alfworld-$(sha256sum requirements/alfworld.txt | cut -c1-64)
is_done() { [[ -e $STAMP && ! -e $INCOMPLETE && -x $VENV/bin/python ]]; }

python_fits() {
    "$1" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1
}

find_python() {
    if [[ -n ${PYTHON:-} ]]; then
        python_fits "$PYTHON" || die "PYTHON=$PYTHON is not a working Python 3.11 or 3.12 with venv and ensurepip"
        echo "$PYTHON"
        return
    fi
    local candidate
    for candidate in python3.11 python3.12 python3; do
        if python_fits "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    die "no Python 3.11 or 3.12 with venv and ensurepip on PATH; install one, or set PYTHON=/path/to/python"
}

check_machine() {
    local system machine free_kb
    system=$(uname -s) machine=$(uname -m)
    [[ $system == Linux && ($machine == x86_64 || $machine == aarch64) ]] ||
        die "the CPU stack runs on Linux x86_64 or aarch64; this is $system $machine"
    free_kb=$(df -Pk "$ROOT" | awk 'NR == 2 { print $4 }')
    ((free_kb >= MIN_FREE_GB * 1024 * 1024)) ||
        die "$((free_kb / 1024 / 1024)) GB free under $ROOT; the environment needs $MIN_FREE_GB GB"
}

make_venv() {
    local python
    if [[ -e $INCOMPLETE ]]; then
        say "an earlier set-up did not finish; starting again"
    elif [[ -x $VENV/bin/python ]]; then
        python_fits "$VENV/bin/python" || die "$VENV is not a Python 3.11 or 3.12; move it away and run this again"
        touch "$INCOMPLETE"
        return
    fi
    python=$(find_python)
    say "making .venv with $("$python" --version)"
    mkdir -p "$VENV"
    touch "$INCOMPLETE"
    "$python" -m venv --clear "$VENV"
    touch "$INCOMPLETE" # --clear took it
}

install_torch() {
    # The CPU build is a fifth of the size. pip honours the user's own settings (an index or a folder that has it); uv knows
    # PyTorch's index of CPU wheels. PyPI has the build for CUDA alone: the same Python code, which runs without a GPU.
    local version
    version=$(sed -n 's/^torch==//p' requirements/torch.lock)
    "$VENV/bin/python" -m pip install --disable-pip-version-check --quiet --no-deps "torch==$version+cpu" 2>"$VENV/.pip-errors" ||
        uv_install --quiet --torch-backend cpu "torch==$version" 2>>"$VENV/.pip-errors" ||
        {
            sed 's/^/    /' "$VENV/.pip-errors"
            say "no CPU build of torch $version is to be had (see above); taking PyPI's, with CUDA's libraries"
            uv_install --compile-bytecode -r requirements/torch.lock
        }
    rm -f "$VENV/.pip-errors"
}

uv_install() { "$VENV/bin/uv" pip install --python "$VENV/bin/python" --no-deps "$@"; }

set_up() {
    local began=$SECONDS
    check_machine
    make_venv
    trap 's=$?; ((s == 0)) || say "not finished; run it again to start over" >&2' EXIT
    say "[1/4] uv $UV_VERSION, the installer"
    "$VENV/bin/python" -m pip install --disable-pip-version-check --quiet "uv==$UV_VERSION"
    say "[2/4] torch"
    install_torch
    say "[3/4] the pinned packages of requirements/cpu.lock"
    # byte code now, so that the first run starts as quickly as any other
    uv_install --compile-bytecode -r requirements/cpu.lock
    say "[4/4] this project, editable"
    uv_install --no-build-isolation -e .
    rm -f "$VENV"/.holderpo-lock-*
    touch "$STAMP"
    rm -f "$INCOMPLETE"
    say "done in $((SECONDS - began)) s"
}

set_up_alfworld() {
    command -v g++ >/dev/null && command -v make >/dev/null || die "ALFWorld's planner is built from source: install g++ and make"
    say "ALFWorld's text environment (two packages are built, about a minute)"
    uv_install --compile-bytecode -r requirements/alfworld.txt
    rm -f "$VENV"/.holderpo-alfworld-*
    touch "$ALFWORLD_STAMP"
}

case ${1:-} in
    "") is_all_done() { is_done; } ;;
    alfworld) is_all_done() { is_done && [[ -e $ALFWORLD_STAMP ]]; } ;;
    *) die "$1 is not an optional part; allowed is alfworld" ;;
esac

is_all_done && exit 0
if command -v flock >/dev/null; then
    exec 9<"$ROOT"
    flock --nonblock 9 || { say "another set-up is running here; waiting for it"; flock 9; }
    is_all_done && exit 0
fi
is_done || set_up
[[ ${1:-} != alfworld ]] || set_up_alfworld
