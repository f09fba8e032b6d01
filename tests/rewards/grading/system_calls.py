"""System calls, and grading processes that try them: a program that test_seccomp.py starts, since it may give up its user.

    PYTHONPATH=.:tests .venv/bin/python -m rewards.grading.system_calls count 0                # as user 0: allowed, refused
    PYTHONPATH=.:tests .venv/bin/python -m rewards.grading.system_calls count 65534 FILE       # with FILE for seccomp.py

How a call is tried without being made: a second filter, put on before the grading process is started, has the kernel fail
calls whose sixth argument is MARK with ENOSYS. Where several filters answer, the kernel takes the strictest answer. EPERM,
that of the grading processes' filter, is stricter (seccomp(2): ERRNO comes before TRACE). So ENOSYS is what that filter lets
pass and EPERM what it refuses; neither depends on what the kernel or the user's rights would have made of the call.
"""

import ctypes
import errno
import json
import mmap
import os
import platform
import runpy
import signal
import stat
import struct
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from recipe.holderpo.rewards.grading import seccomp, verify, worker

# The kernel's own table for x86-64, arch/x86/entry/syscalls/syscall_64.tbl, as of Linux 6.19: first number -> names.
_X86_64 = {
    0: """
    read write open close stat fstat lstat poll lseek mmap mprotect munmap brk rt_sigaction rt_sigprocmask
    rt_sigreturn ioctl pread64 pwrite64 readv writev access pipe select sched_yield mremap msync mincore madvise
    shmget shmat shmctl dup dup2 pause nanosleep getitimer alarm setitimer getpid sendfile socket connect accept
    sendto recvfrom sendmsg recvmsg shutdown bind listen getsockname getpeername socketpair setsockopt getsockopt
    clone fork vfork execve exit wait4 kill uname semget semop semctl shmdt msgget msgsnd msgrcv msgctl fcntl flock
    fsync fdatasync truncate ftruncate getdents getcwd chdir fchdir rename mkdir rmdir creat link unlink symlink
    readlink chmod fchmod chown fchown lchown umask gettimeofday getrlimit getrusage sysinfo times ptrace getuid
    syslog getgid setuid setgid geteuid getegid setpgid getppid getpgrp setsid setreuid setregid getgroups setgroups
    setresuid getresuid setresgid getresgid getpgid setfsuid setfsgid getsid capget capset rt_sigpending
    rt_sigtimedwait rt_sigqueueinfo rt_sigsuspend sigaltstack utime mknod uselib personality ustat statfs fstatfs
    sysfs getpriority setpriority sched_setparam sched_getparam sched_setscheduler sched_getscheduler
    sched_get_priority_max sched_get_priority_min sched_rr_get_interval mlock munlock mlockall munlockall vhangup
    modify_ldt pivot_root _sysctl prctl arch_prctl adjtimex setrlimit chroot sync acct settimeofday mount umount2
    swapon swapoff reboot sethostname setdomainname iopl ioperm create_module init_module delete_module
    get_kernel_syms query_module quotactl nfsservctl getpmsg putpmsg afs_syscall tuxcall security gettid readahead
    setxattr lsetxattr fsetxattr getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr removexattr lremovexattr
    fremovexattr tkill time futex sched_setaffinity sched_getaffinity set_thread_area io_setup io_destroy io_getevents
    io_submit io_cancel get_thread_area lookup_dcookie epoll_create epoll_ctl_old epoll_wait_old remap_file_pages
    getdents64 set_tid_address restart_syscall semtimedop fadvise64 timer_create timer_settime timer_gettime
    timer_getoverrun timer_delete clock_settime clock_gettime clock_getres clock_nanosleep exit_group epoll_wait
    epoll_ctl tgkill utimes vserver mbind set_mempolicy get_mempolicy mq_open mq_unlink mq_timedsend mq_timedreceive
    mq_notify mq_getsetattr kexec_load waitid add_key request_key keyctl ioprio_set ioprio_get inotify_init
    inotify_add_watch inotify_rm_watch migrate_pages openat mkdirat mknodat fchownat futimesat newfstatat unlinkat
    renameat linkat symlinkat readlinkat fchmodat faccessat pselect6 ppoll unshare set_robust_list get_robust_list
    splice tee sync_file_range vmsplice move_pages utimensat epoll_pwait signalfd timerfd_create eventfd fallocate
    timerfd_settime timerfd_gettime accept4 signalfd4 eventfd2 epoll_create1 dup3 pipe2 inotify_init1 preadv pwritev
    rt_tgsigqueueinfo perf_event_open recvmmsg fanotify_init fanotify_mark prlimit64 name_to_handle_at
    open_by_handle_at clock_adjtime syncfs sendmmsg setns getcpu process_vm_readv process_vm_writev kcmp finit_module
    sched_setattr sched_getattr renameat2 seccomp getrandom memfd_create kexec_file_load bpf execveat userfaultfd
    membarrier mlock2 copy_file_range preadv2 pwritev2 pkey_mprotect pkey_alloc pkey_free statx io_pgetevents rseq
    uretprobe uprobe
    """,
    424: """
    pidfd_send_signal io_uring_setup io_uring_enter io_uring_register open_tree move_mount fsopen fsconfig fsmount
    fspick pidfd_open clone3 close_range openat2 pidfd_getfd faccessat2 process_madvise epoll_pwait2 mount_setattr
    quotactl_fd landlock_create_ruleset landlock_add_rule landlock_restrict_self memfd_secret process_mrelease
    futex_waitv set_mempolicy_home_node cachestat fchmodat2 map_shadow_stack futex_wake futex_wait futex_requeue
    statmount listmount lsm_get_self_attr lsm_set_self_attr lsm_list_modules mseal setxattrat getxattrat listxattrat
    removexattrat open_tree_attr file_getattr file_setattr listns
    """,
}
# Of aarch64 (include/uapi/asm-generic/unistd.h) those that are documented.
_AARCH64 = {
    24: "dup3", 63: "read", 64: "write", 94: "exit_group", 113: "clock_gettime", 214: "brk", 215: "munmap", 222: "mmap",
    57: "close", 93: "exit", 98: "futex", 135: "rt_sigprocmask", 139: "rt_sigreturn", 169: "gettimeofday", 216: "mremap",
    226: "mprotect", 233: "madvise", 278: "getrandom",
}  # fmt: skip
NAMES = {
    "x86_64": {first + i: name for first, names in _X86_64.items() for i, name in enumerate(names.split())},
    "aarch64": _AARCH64,
}
# Beyond the last number there is, also the numbers that x32 has for itself (512 to 547) and the ones that are still to come.
NUMBERS = range(1024)
X32 = 0x40000000  # a bit that makes a number one of x86-64's second numbering, which not every kernel has

MARK = 0x5EC0ACED
_SIXTH_ARGUMENT = 56  # where the filter finds its lower half
_TRACE, _ALLOW = 0x7FF00000, 0x7FFF0000  # TRACE without a tracer: ENOSYS

# push rbx; xor ebx, ebx; mov eax, edi; int 0x80; pop rbx; ret: the 32-bit call of this number
_INT_80 = bytes.fromhex("53 31db 89f8 cd80 5b c3")
_GETPID_32 = 20


def fail_marked_calls() -> None:
    steps = (
        (seccomp.LOAD_WORD, 0, 0, _SIXTH_ARGUMENT),
        (seccomp.JUMP_IF_EQUAL, 0, 1, MARK),
        (seccomp.RETURN, 0, 0, _TRACE),
        (seccomp.RETURN, 0, 0, _ALLOW),
    )
    seccomp.install(b"".join(struct.pack("HBBI", *step) for step in steps))


def call(number: int, *arguments: int | bytes | None) -> int:
    """Make a system call. Returns what it does, or minus the number of its error."""
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long
    given = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    result: int = syscall(ctypes.c_long(number), *given)
    return result if result != -1 else -ctypes.get_errno()


def outcome(result: int) -> str:
    return "done" if result >= 0 else errno.errorcode[-result]


def in_grading_process(act: Callable[[], object]) -> tuple[list[bytes], int]:
    """Start a grading process as the host does, and have it do something where it would compare an answer.

    Returns:
        The messages that it wrote before its reply, and its exit status, or minus the number of the signal that ended it."""
    verify.install_guard = lambda: None  # which needs sympy
    verify.verify = lambda answer, truth: bool(act())
    pid, channel = worker.start(1024)
    os.set_blocking(channel, True)
    assert os.read(channel, 1 << 10) == worker.READY
    os.write(channel, b'{"answer": "", "truth": ""}')
    messages = []
    while (message := os.read(channel, 1 << 10)) and message not in worker.REPLIES:
        messages.append(message)
    os.close(channel)
    return messages, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def try_numbers() -> dict[str, list[int]]:
    """Each number as it is and as one of x32, tried in a grading process: error, or the signal that it ends in -> numbers.

    A process that ends before it has tried all is followed by another, which goes on after that number."""
    fail_marked_calls()
    rest = [*NUMBERS, *(X32 | number for number in NUMBERS)]
    found: dict[str, list[int]] = {}

    def try_rest() -> None:
        for number in rest:
            os.write(0, outcome(call(number, 0, 0, 0, 0, 0, MARK)).encode())

    while rest:
        messages, status = in_grading_process(try_rest)
        outcomes = [message.decode() for message in messages]
        if status < 0:
            outcomes.append(signal.Signals(-status).name)
        assert status <= 0 and (status < 0 or len(outcomes) == len(rest))
        for ended in outcomes:
            found.setdefault(ended, []).append(rest.pop(0))
    return found


def attempts() -> dict[str, list[str]]:
    """What users did past the first filter, with arguments that work: call -> how it ended here, and in a grading process."""
    numbers = {name: number for number, name in NAMES["x86_64"].items()}
    here, queue = os.getpid(), f"holderpo-{os.getpid()}".encode()
    at_working_directory = -100
    with tempfile.TemporaryDirectory() as name:
        file, pipe = Path(name, "file"), Path(name, "pipe")
        file.touch()
        arguments: dict[str, tuple[int | bytes | None, ...]] = {
            "mknod": (bytes(pipe), stat.S_IFIFO | 0o600, 0),
            "rt_sigqueueinfo": (here, 0, struct.pack("iii116x", 0, 0, -1)),  # siginfo of sigqueue(3); 0 sends no signal
            "fchmodat2": (at_working_directory, bytes(file), 0o600, 0),
            "lchown": (bytes(file), os.getuid(), os.getgid()),
            "utimensat": (at_working_directory, bytes(file), None, 0),
            "setxattr": (bytes(file), b"user.holderpo", b"", 0, 0),
            "mq_open": (queue, os.O_CREAT | os.O_RDWR, 0o600, None),
            "shmget": (here, 4096, 0o1600),  # IPC_CREAT
            "setpriority": (os.PRIO_PROCESS, here, os.getpriority(os.PRIO_PROCESS, here)),
        }

        def make_all() -> dict[str, int]:
            return {name: call(numbers[name], *given) for name, given in arguments.items()}

        outside = make_all()
        pipe.unlink()
        call(numbers["mq_unlink"], queue)
        if outside["shmget"] >= 0:
            call(numbers["shmctl"], outside["shmget"], 0, None)  # IPC_RMID
        messages, _ = in_grading_process(lambda: os.write(0, json.dumps(make_all()).encode()))
        inside = json.loads(messages[0])
    return {name: [outcome(outside[name]), outcome(inside[name])] for name in arguments}


def try_32_bit_calls() -> dict[str, int]:
    """Exit status of a grading process that makes a 32-bit call, by the call's number: those that pass as 64-bit calls, and
    getpid. "outside": 0 if this kernel has 32-bit calls."""
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(_INT_80)
    call_32 = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
    pid = os.fork()  # which dies of it where the kernel has none
    if pid == 0:
        os._exit(call_32(_GETPID_32) != os.getpid())
    statuses = {"outside": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}
    for number in (_GETPID_32, *try_numbers()["ENOSYS"]):
        statuses[str(number)] = in_grading_process(partial(call_32, number))[1]
    return statuses


def count() -> dict[str, int]:
    """Of the calls that have a name: how many pass, are refused, and end otherwise."""
    names, numbers = NAMES[platform.machine()], try_numbers()
    found = {
        ended: len(names.keys() & numbers.pop(error)) for ended, error in (("allowed", "ENOSYS"), ("refused", "EPERM"))
    }
    return found | {ended: len(others) for ended, others in numbers.items()}


def main() -> None:
    what, user = sys.argv[1], int(sys.argv[2])
    if sys.argv[3:]:
        verify.seccomp.deny = runpy.run_path(sys.argv[3])["deny"]
    if user != os.geteuid():
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    functions: dict[str, Callable[[], object]] = {
        "numbers": try_numbers,
        "attempts": attempts,
        "32-bit": try_32_bit_calls,
        "count": count,
    }
    print(json.dumps(functions[what]()))


if __name__ == "__main__":
    main()
