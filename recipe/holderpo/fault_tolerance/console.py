"""Printing that nothing waits for: a terminal that is held (Ctrl-S), a stopped `less` or `tee`, or one that is gone must not
hold a run, its restart or its end."""

import io
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

END_SECONDS = 5.0
"""For the console to take what is left, when a command ends."""
KEPT = 1_000_000
"""Bytes that wait for the console; what comes beyond is not shown."""


class Writer:
    """Writes to file descriptors in a thread of its own, in the order in which it was asked.

    Not to the buffers of `sys.stdout`, whose lock a waiting thread would keep from the end of the interpreter. A handler of
    a signal may print while its thread does, so nothing here is held by a lock that the same thread cannot take again.
    """

    def __init__(self) -> None:
        self._texts: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
        self._waiting, self._lock = 0, threading.RLock()
        threading.Thread(target=self._run, name="console", daemon=True).start()

    def write(self, descriptor: int, text: bytes) -> None:
        with self._lock:
            if self._waiting and self._waiting + len(text) > KEPT:
                return
            self._waiting += len(text)
        self._texts.put((descriptor, text))

    def drain(self) -> None:
        """Wait until all is written, `END_SECONDS` at most."""
        end = time.monotonic() + END_SECONDS
        while self._waiting and time.monotonic() < end:
            time.sleep(0.01)

    def _run(self) -> None:
        while True:
            descriptor, text = self._texts.get()
            rest = text
            with suppress(OSError):  # the console is gone; a run goes on without
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
            with self._lock:
                self._waiting -= len(text)


class Stream(io.TextIOBase):
    """What `print` writes to in the place of a stream with a file descriptor."""

    def __init__(self, writer: Writer, stream: TextIO) -> None:
        self.writer, self._stream, self._descriptor = writer, stream, stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._descriptor

    def write(self, text: str) -> int:
        self.writer.write(self._descriptor, text.encode(self.encoding, "replace"))
        return len(text)


@contextmanager
def console_that_holds_nothing() -> Iterator[None]:
    """In the block, what is printed to `sys.stdout` and `sys.stderr` is not waited for. At its end the console has
    `END_SECONDS` to show what is left."""
    before, writer = (sys.stdout, sys.stderr), Writer()
    for stream in before:
        stream.flush()
    try:
        sys.stdout, sys.stderr = (Stream(writer, stream) for stream in before)
        yield
    finally:
        writer.drain()
        sys.stdout, sys.stderr = before
