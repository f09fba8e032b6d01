"""The list of system calls that a grading process may make, tried call by call."""

import errno
import json
import os
import platform
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rewards.grading.system_calls import NAMES, NUMBERS, X32

from recipe.holderpo.rewards.grading import seccomp

ROOT = Path(__file__).parents[3]
DOCUMENT = (ROOT / "docs/grading.md").read_text().partition("## The calls that a grading process can make")[2]
SECTION = DOCUMENT.partition("\n## ")[0]
# uretprobe and uprobe, which newer kernels let pass any filter. Where the kernel has set no probe, they fail, or end the
# process.
UNFILTERED, UNFILTERED_ENDS = {335, 336}, {"SIGILL", "ENXIO", "EPROTO"}
USERS = [
    pytest.param(0, id="root", marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root can try them as root")),
    pytest.param(os.geteuid() or 65534, id="another user"),
]
ON_X86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="a matter of x86-64 alone")
# AUDIT_ARCH_* of the kernel's linux/audit.h: the ELF machine, 64 bits, little endian
ARCHITECTURES = {"x86_64": 62 | 0xC0000000, "aarch64": 183 | 0xC0000000}
ARCHITECTURES_32_BIT = {"x86_64": 3 | 0x40000000, "aarch64": 40 | 0x40000000}


def documented(machine: str) -> set[str]:
    rows = re.findall(r"^\| (`.*?) \|", SECTION, re.MULTILINE)
    elsewhere = {"x86_64": "dup3", "aarch64": "dup2"}[machine]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)} - {elsewhere}


def tried(what: str, user: int) -> Any:
    search_path = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    command = [sys.executable, "-m", "rewards.grading.system_calls", what, str(user)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": search_path})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("user", USERS)
def test_the_documented_calls_pass_and_all_others_fail(user: int) -> None:
    found: dict[str, list[int]] = tried("numbers", user)
    names = NAMES[platform.machine()]
    assert {names.get(number, number) for number in found.pop("ENOSYS")} == documented(platform.machine())
    refused = found.pop("EPERM")
    others = {number for numbers in found.values() for number in numbers}
    assert set(found) <= UNFILTERED_ENDS and others <= UNFILTERED
    every = {*NUMBERS, *(X32 | number for number in NUMBERS)}
    assert len(every) == 2048 and len(refused) == len(every) - len(documented(platform.machine())) - len(others)


@ON_X86_64
@pytest.mark.parametrize("user", USERS)
def test_what_users_did_past_the_former_filter_fails(user: int) -> None:
    found: dict[str, list[str]] = tried("attempts", user)
    assert len(found) == 9 and {inside for _, inside in found.values()} == {"EPERM"}
    for name in ("mknod", "rt_sigqueueinfo", "lchown", "utimensat", "setpriority"):  # not every kernel has the others
        assert found[name][0] == "done"


@ON_X86_64
@pytest.mark.parametrize("user", USERS)
def test_a_32_bit_call_ends_the_process(user: int) -> None:
    found: dict[str, int] = tried("32-bit", user)
    if found.pop("outside") != 0:
        pytest.skip("this kernel has no 32-bit calls")
    assert len(found) == 1 + len(documented("x86_64"))
    assert set(found.values()) == {-31}  # SIGSYS


def answer(code: bytes, architecture: int, number: int) -> int:
    """What a filter answers to a call: classic BPF, of which it uses three operations."""
    steps = list(struct.iter_unpack("HBBI", code))
    position = value = 0
    while True:
        operation, if_true, if_false, operand = steps[position]
        position += 1
        if operation == 0x06:  # return
            return operand
        if operation == 0x20:  # load a word of struct seccomp_data
            value = {0: number, 4: architecture}[operand]
        else:
            assert operation == 0x15  # jump if equal
            position += if_true if value == operand else if_false


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_the_filter_of_each_machine(machine: str) -> None:
    """As the kernel reads it; for the machines that these tests do not run on."""
    code = seccomp.program(machine)
    answers = {number: answer(code, ARCHITECTURES[machine], number) for number in NUMBERS}
    passed = {number for number, found in answers.items() if found == 0x7FFF0000}
    assert {NAMES[machine].get(number, number) for number in passed} == documented(machine)
    assert {answers[number] for number in NUMBERS if number not in passed} == {0x00050000 | errno.EPERM}
    for other in {*ARCHITECTURES.values(), *ARCHITECTURES_32_BIT.values()} - {ARCHITECTURES[machine]}:
        assert {answer(code, other, number) for number in NUMBERS} == {0x80000000}


def test_the_figures_of_the_document() -> None:
    names = NAMES["x86_64"]
    allowed = len(documented("x86_64"))
    assert f"The {len(names)} calls" in SECTION
    assert f"| now | {allowed} | {len(names) - allowed - len(UNFILTERED)} |" in SECTION
