"""A system-call filter for a process that reads untrusted text: what it may no longer ask of the kernel, it cannot do.

Linux alone, x86-64 and aarch64. The calls fail with EPERM, so that Python raises PermissionError.
"""

import ctypes
import errno
import platform
import struct

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD_WORD, JUMP_IF_EQUAL, JUMP_IF_AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
ALLOW, FAIL, KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
X32 = 0x40000000  # x86-64's second numbering of the same calls

# Opening and changing files, sockets, programs and processes, other processes' memory and life, kernel interfaces.
_NAMES = {
    "x86_64": {
        "open": 2, "openat": 257, "openat2": 437, "creat": 85, "memfd_create": 319, "unlink": 87, "unlinkat": 263,
        "rename": 82, "renameat": 264, "renameat2": 316, "mkdir": 83, "mkdirat": 258, "rmdir": 84, "link": 86, "linkat": 265,
        "symlink": 88, "symlinkat": 266, "chmod": 90, "fchmodat": 268, "chown": 92, "fchownat": 260, "truncate": 76,
        "socket": 41, "socketpair": 53, "connect": 42, "bind": 49, "listen": 50, "accept": 43, "accept4": 288,
        "execve": 59, "execveat": 322, "fork": 57, "vfork": 58, "clone": 56, "clone3": 435,
        "kill": 62, "tkill": 200, "tgkill": 234, "pidfd_open": 434, "pidfd_getfd": 438, "pidfd_send_signal": 424,
        "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "io_uring_setup": 425, "bpf": 321,
        "perf_event_open": 298, "userfaultfd": 323, "keyctl": 250, "mount": 165, "unshare": 272, "setns": 308,
        "open_by_handle_at": 304,
    },
    "aarch64": {
        "openat": 56, "openat2": 437, "memfd_create": 279, "unlinkat": 35, "renameat": 38, "renameat2": 276, "mkdirat": 34,
        "linkat": 37, "symlinkat": 36, "fchmodat": 53, "fchownat": 54, "truncate": 45,
        "socket": 198, "socketpair": 199, "connect": 203, "bind": 200, "listen": 201, "accept": 202, "accept4": 242,
        "execve": 221, "execveat": 281, "clone": 220, "clone3": 435,
        "kill": 129, "tkill": 130, "tgkill": 131, "pidfd_open": 434, "pidfd_getfd": 438, "pidfd_send_signal": 424,
        "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "io_uring_setup": 425, "bpf": 280,
        "perf_event_open": 241, "userfaultfd": 282, "keyctl": 219, "mount": 40, "unshare": 97, "setns": 268,
        "open_by_handle_at": 265,
    },
}  # fmt: skip
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def program(machine: str) -> bytes:
    """The filter as BPF code: another architecture's calls kill the process, the calls above fail, the rest pass."""
    numbers = sorted(_NAMES[machine].values())

    def step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
        return struct.pack("HBBI", code, if_true, if_false, value)

    to_fail = len(numbers) + 1  # from the x32 check: over the comparisons and the `allow`
    steps = [
        step(LOAD_WORD, 4),
        step(JUMP_IF_EQUAL, _AUDIT_ARCH[machine], 1, 0),
        step(RETURN, KILL),
        step(LOAD_WORD, 0),
        step(JUMP_IF_AT_LEAST, X32, to_fail, 0),
        *(step(JUMP_IF_EQUAL, number, len(numbers) - i, 0) for i, number in enumerate(numbers)),
        step(RETURN, ALLOW),
        step(RETURN, FAIL),
    ]
    return b"".join(steps)


def deny() -> None:
    """Put the filter on this process, for good. Raises OSError where the kernel does not take it."""
    machine = platform.machine()
    if machine not in _NAMES:
        raise OSError(errno.ENOTSUP, f"no system-call filter for {machine!r}; there is one for {', '.join(_NAMES)}")
    code = program(machine)
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
