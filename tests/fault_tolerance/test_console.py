"""Nothing waits for a console that takes no text."""

import os
import signal
import subprocess
import sys
import threading

HOLDS_NOTHING = (
    "import os, signal, sys\n"
    "from recipe.holderpo.fault_tolerance.console import console_that_holds_nothing\n"
    "with console_that_holds_nothing():\n"
)
ALL_THAT_A_PIPE_HOLDS = 1 << 20


def child(code: str, output: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", HOLDS_NOTHING + code], stdout=output, stderr=output)


def child_that_has_printed(code: str, then: str, output: int) -> "subprocess.Popen[bytes]":
    """A child that has run the first part of its code, and goes on with the second."""
    reader, writer = os.pipe()
    code += f"    os.write({writer}, b'done')\n"
    command = [sys.executable, "-c", HOLDS_NOTHING + code + then]
    process = subprocess.Popen(command, stdout=output, stderr=output, pass_fds=[writer])
    os.close(writer)
    with os.fdopen(reader, "rb") as done:
        assert done.read(4) == b"done"
    return process


def test_a_pipe_that_nobody_reads_holds_neither_the_work_nor_the_end() -> None:
    reader, writer = os.pipe()
    code = f"    print('a' * {2 * ALL_THAT_A_PIPE_HOLDS})\n    print('b', file=sys.stderr)\n"
    process = child_that_has_printed(code, "    sys.exit(7)\n", writer)
    try:
        assert process.wait(600) == 7
    finally:
        process.kill()
        os.close(reader)
        os.close(writer)


def test_an_error_is_not_held_either() -> None:
    """Its traceback would be the interpreter's to print, which waits."""
    reader, writer = os.pipe()
    process = child(f"    print('a' * {2 * ALL_THAT_A_PIPE_HOLDS})\n    raise RuntimeError('on purpose')\n", writer)
    try:
        assert process.wait(600) == 1
    finally:
        process.kill()
        os.close(reader)
        os.close(writer)


def test_all_is_shown_in_its_order_to_one_who_reads_late() -> None:
    reader, writer = os.pipe()
    code = (
        "    for number in range(20000):\n"
        "        print('line', number, file=(sys.stdout, sys.stderr)[number % 2])\n"
        "    print('\\u00fc', end='')\n"
        "    raise RuntimeError('on purpose')\n"
    )
    process = child(code, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as said:
        lines = said.read().decode().split("\n")
    assert lines[:20000] == [f"line {number}" for number in range(20000)]
    text = "\n".join(lines[20000:])
    assert "ü" in text and "RuntimeError: on purpose" in text
    assert process.wait() == 1


def test_what_is_too_much_is_counted() -> None:
    """Ten times as much as is kept, for a reader who takes nothing before all is printed."""
    reader, writer = os.pipe()
    code = "    for number in range(100000):\n        print(f'{number:99}')\n"
    then = "    import time\n    while sys.stdout.writer._waiting:\n        time.sleep(0.01)\n    print('end')\n"
    process = child_that_has_printed(code, then, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as said:
        lines = said.read().decode().splitlines()
    assert process.wait() == 0
    (note,) = (line for line in lines if "not shown" in line)
    left_out = int(note.split()[0][1:])
    assert lines[-2:] == [note, "end"] and left_out > 80000 and len(lines) - 2 + left_out == 100000


def test_a_console_that_is_gone_ends_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = child("    print('a')\n    print('b', file=sys.stderr)\n    sys.exit(7)\n", writer)
    os.close(writer)
    assert process.wait() == 7


def test_a_signals_handler_may_print_in_the_midst_of_printing() -> None:
    reader, writer = os.pipe()
    code = (
        "    signal.signal(signal.SIGUSR1, lambda *_: print('handler\\n', end=''))\n"
        "    print('ready')\n"
        "    for number in range(200000):\n"
        "        print('x\\n', end='')\n"
        "    signal.signal(signal.SIGUSR1, signal.SIG_IGN)\n"
        "    print('end')\n"
    )
    process = child(code, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as said:
        assert said.readline() == b"ready\n"
        stop = threading.Event()

        def strike() -> None:
            while not stop.wait(0.001):
                process.send_signal(signal.SIGUSR1)

        thread = threading.Thread(target=strike)
        thread.start()
        lines = said.read().splitlines()
        stop.set()
        thread.join()
    assert process.wait() == 0
    assert lines.count(b"x") + lines.count(b"handler") + 1 == len(lines)
    assert b"handler" in lines and lines[-1] == b"end"
