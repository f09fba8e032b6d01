"""A system-call filter for a process that reads untrusted text: it lists what the process may still ask of the kernel.

Linux alone, x86-64 and aarch64. Any other call fails with EPERM, so that Python raises PermissionError.
"""

import ctypes
import errno
import platform
import struct

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD_WORD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, FAIL, KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000

# What a grading process was seen to ask of the kernel, then what another C library or Python may ask for in the same places;
# docs/grading.md says what for. None takes a path, an address or another process; none makes a process or sends a signal.
# tests/rewards/grading/test_seccomp.py tries every call.
_ALLOWED = {
    "x86_64": {
        "read": 0, "write": 1, "dup2": 33, "mmap": 9, "munmap": 11, "brk": 12, "clock_gettime": 228, "exit_group": 231,
        "close": 3, "exit": 60, "futex": 202, "getrandom": 318, "gettimeofday": 96, "madvise": 28, "mprotect": 10,
        "mremap": 25, "rt_sigprocmask": 14, "rt_sigreturn": 15,
    },
    "aarch64": {
        "read": 63, "write": 64, "dup3": 24, "mmap": 222, "munmap": 215, "brk": 214, "clock_gettime": 113, "exit_group": 94,
        "close": 57, "exit": 93, "futex": 98, "getrandom": 278, "gettimeofday": 169, "madvise": 233, "mprotect": 226,
        "mremap": 216, "rt_sigprocmask": 135, "rt_sigreturn": 139,
    },
}  # fmt: skip
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def program(machine: str) -> bytes:
    """The filter as BPF code: another architecture's calls kill the process, the calls above pass, all others fail."""
    numbers = sorted(_ALLOWED[machine].values())

    def step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
        return struct.pack("HBBI", code, if_true, if_false, value)

    steps = [
        step(LOAD_WORD, 4),
        step(JUMP_IF_EQUAL, _AUDIT_ARCH[machine], 1, 0),
        step(RETURN, KILL),
        step(LOAD_WORD, 0),  # x86-64's second numbering of the same calls (x32) has a bit that no number above has
        *(step(JUMP_IF_EQUAL, number, len(numbers) - i, 0) for i, number in enumerate(numbers)),
        step(RETURN, FAIL),
        step(RETURN, ALLOW),
    ]
    return b"".join(steps)


def deny() -> None:
    """Put the filter on this process, for good. Raises OSError where the kernel does not take it."""
    machine = platform.machine()
    if machine not in _ALLOWED:
        raise OSError(errno.ENOTSUP, f"no system-call filter for {machine!r}; there is one for {', '.join(_ALLOWED)}")
    install(program(machine))


def install(code: bytes) -> None:
    """Put a filter (BPF code) on this process, for good. Raises OSError where the kernel does not take it."""
    buffer = ctypes.create_string_buffer(code, len(code))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    libc = ctypes.CDLL(None, use_errno=True)
    described = Program(len(code) // 8, ctypes.addressof(buffer))
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(described), 0, 0
    ):
        number = ctypes.get_errno()
        raise OSError(number, "the kernel refuses a system-call filter (seccomp) for grading processes")
