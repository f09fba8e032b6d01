"""Printing that nothing waits for: a terminal that is held (Ctrl-S), a stopped `less` or `tee`, or one that is gone must not
hold a run, its restart or its end."""

import io
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

END_SECONDS = 5.0
"""When a command ends, what is left is waited for as long as the console takes some of it within so many seconds."""
KEPT = 1_000_000
"""Bytes that wait for the console; lines beyond are counted, and not shown."""


class Writer:
    """Writes to file descriptors in a thread of its own, in the order in which it was asked.

    Not to the buffers of `sys.stdout`, whose lock a waiting thread would keep from the end of the interpreter. A handler of
    a signal may print while its thread does, so nothing here is held by a lock that the same thread cannot take again.
    """

    def __init__(self) -> None:
        self._texts: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
        self._waiting, self._left_out, self._lock = 0, 0, threading.RLock()
        self._taken = time.monotonic()
        threading.Thread(target=self._run, name="console", daemon=True).start()

    def write(self, descriptor: int, text: bytes) -> None:
        with self._lock:
            if self._waiting and self._waiting + len(text) > KEPT:
                self._left_out += text.count(b"\n")
                return
            if self._left_out:
                text = b"[%d lines are not shown]\n" % self._left_out + text
                self._left_out = 0
            self._waiting += len(text)
        self._texts.put((descriptor, text))

    def drain(self) -> None:
        """Wait until all is written, or nothing has been for `END_SECONDS`."""
        began = time.monotonic()
        while self._waiting and time.monotonic() < max(began, self._taken) + END_SECONDS:
            time.sleep(0.01)

    def _run(self) -> None:
        while True:
            descriptor, text = self._texts.get()
            rest = text
            with suppress(OSError):  # the console is gone; a run goes on without
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
                    self._taken = time.monotonic()
            with self._lock:
                self._waiting -= len(text)


class Stream(io.TextIOBase):
    """What `print` writes to in the place of a stream with a file descriptor. A line is written in one piece."""

    def __init__(self, writer: Writer, stream: TextIO) -> None:
        self.writer, self._stream, self._descriptor = writer, stream, stream.fileno()
        self._begun = threading.local()  # of each thread, the line that it has begun

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self._stream.errors

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._descriptor

    def write(self, text: str) -> int:
        begun = getattr(self._begun, "text", "") + text
        lines, newline, self._begun.text = begun.rpartition("\n")
        if newline:
            self._send(lines + newline)
        return len(text)

    def flush(self) -> None:
        begun, self._begun.text = getattr(self._begun, "text", ""), ""
        if begun:
            self._send(begun)

    def _send(self, text: str) -> None:
        self.writer.write(self._descriptor, text.encode(self.encoding, self.errors or "strict"))


def _has_descriptor(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.fileno() >= 0
    except (OSError, ValueError):  # in memory, or closed
        return False


@contextmanager
def console_that_holds_nothing() -> Iterator[None]:
    """In the block, what is printed to `sys.stdout` and `sys.stderr` is not waited for. At its end the console has
    `END_SECONDS` to show what is left.

    Raises:
        SystemExit: with status 1 for an error in the block, whose traceback is printed here: the interpreter would wait.
    """
    before, writer = (sys.stdout, sys.stderr), Writer()
    replaced = [stream for stream in before if _has_descriptor(stream)]
    for stream in replaced:
        stream.flush()
    try:
        sys.stdout, sys.stderr = (Stream(writer, stream) if stream in replaced else stream for stream in before)
        yield
    except Exception:
        traceback.print_exc()
        sys.exit(1)
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        writer.drain()
        sys.stdout, sys.stderr = before
