"""A grading process: forked from the host's warm image, protected, and asked about one answer at a time.

Its only way out is one channel to the host, a socket that keeps messages apart. A request is the client's JSON line; a reply
is one of the words below. The host compares a reply with these words and parses nothing, because the text that is graded may
have taken this process over.
"""

import contextlib
import json
import os
import resource
import socket
import traceback

from recipe.holderpo.rewards.grading import verify

# Longest request, bytes: well below the usual buffer of a socket, so that it is sent whole or not at all.
MAX_REQUEST = 1 << 16
READY = b"ready"
OUT_OF_MEMORY = b"memory"
# reply -> (equal, fault)
REPLIES: dict[bytes, tuple[bool, str | None]] = {
    b"equal": (True, None),
    b"different": (False, None),
    b"unreadable": (False, "unreadable"),
    OUT_OF_MEMORY: (False, "crash"),
}
MAX_REPLY = 1 + max(map(len, REPLIES))  # a longer message is cut to this length, and is then none of them
_CHANNEL = 0  # its descriptor in the grading process


def start(memory_mb: int) -> tuple[int, int]:
    """Fork a grading process from this one, which has called `verify.warm_up`.

    Returns:
        Its process id, and this process's end of the channel, a non-blocking descriptor. The first message on it is READY.

    Raises:
        OSError: no process or no socket is to be had.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        pid = os.fork()
        if pid == 0:
            _run(theirs.fileno(), memory_mb)
    ours.setblocking(False)
    return pid, ours.detach()


def limit_cpu(pid: int, seconds: float) -> None:
    """Let the kernel end a grading process (SIGXCPU) once it has used `seconds` of CPU time, rounded up, since its start.

    Set from outside, because a grading process may not change its limits. No error if there is no such process."""
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_CPU, (int(seconds) + 1, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _run(channel: int, memory_mb: int) -> None:
    """The life of a grading process; does not return."""
    status = 1
    try:
        _close_all_but(channel)
        verify.protect(memory_mb)
        os.dup2(1, 2)  # to nowhere; not before, since without protection the reason goes to the host's stderr
        os.write(_CHANNEL, READY)
        while message := os.read(_CHANNEL, MAX_REQUEST):
            request = json.loads(message)
            os.write(_CHANNEL, _reply(request["answer"], request["truth"]))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)  # without what the host has registered for its own exit


def _close_all_but(channel: int) -> None:
    """Close the host's descriptors (the client's pipes, the other channels); stdout leads nowhere, stderr stays."""
    os.dup2(channel, _CHANNEL)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))


def _reply(answer: str, truth: str) -> bytes:
    try:
        equal = verify.verify(answer, truth)
    except MemoryError:
        return OUT_OF_MEMORY
    except Exception:  # raised by math-verify or sympy
        return b"unreadable"
    return b"unreadable" if equal is None else b"equal" if equal else b"different"
