"""Runs a command in a terminal of its own and holds a dialogue with it: dialogue.py NAME COMMAND...

Prints the transcript, with process IDs made alike, and how the command ended. Each step waits for what it answers to,
so that the transcript does not depend on how fast anything is."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time

PROMPT = rb"\$ $"
LIMIT = float(os.environ.get("LIMIT", 60))


def resize(fd):
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0))


def job(text):
    """Says that it runs, and so that it is in front, before it does what is to be interrupted."""
    return b"sh -c 'echo on; " + text + b"'\n"


# A shell that starts programs could be caught where it waits for its child's execve, and cannot stop.
STOPPABLE = b"perl -e '$|=1; $SIG{CONT}=sub{print qq(back\\n)}; print qq(on2\\n); sleep 1 while 1'\n"
BASH = ["bash", "--norc", "--noprofile"]
DIALOGUES = {
    "bash": (BASH, [
        (PROMPT, b"tty >/dev/null && echo a terminal\n"),
        (PROMPT, b"ps -o pid,pgid,sid,tpgid,stat,comm | cat\n"),
        (PROMPT, b"stty -a\n"),
        (PROMPT, job(b"exec sleep 100")),
        (rb"on\r\n", b"\x03"),
        (PROMPT, b"echo status $?\n"),
        (PROMPT, job(b"exec sleep 100")),
        (rb"on\r\n", b"\x1c"),
        (PROMPT, b"echo status $?\n"),
        (PROMPT, STOPPABLE),
        (rb"on2\r\n", b"\x1a"),
        (PROMPT, b"jobs\n"),
        (PROMPT, b"fg\n"),
        (rb"back\r\n", b"\x1a"),
        (PROMPT, b"jobs\n"),
        (PROMPT, b"fg\n"),
        (rb"back\r\n", b"\x03"),
        (PROMPT, job(b"exec cat")),
        (rb"on\r\n", b"hello\nwor\x7fx\n\x04"),
        (PROMPT, job(b"stty -echo; echo quiet; read a; stty echo; echo got $a")),
        (rb"quiet\r\n", b"secret\n"),
        (PROMPT, job(b"trap \"stty size; exit\" WINCH; echo on2; while :; do sleep 0.05; done")),
        (rb"on2\r\n", resize),
        (PROMPT, b"exit 3\n"),
    ]),
    "python": (["python3", "-q"], [
        (b">>> $", b"import os; os.isatty(0), os.get_terminal_size()\n"),
        (b">>> $", b"import getpass; getpass.getpass()\n"),
        (b"word: $", b"secret\n"),
        (b">>> $", b"import pty; pty.spawn(['sh', '-c', 'stty -a; exit 4'])\n"),
        (b">>> $", b"os.tcgetpgrp(0) == os.getpgrp(), os.getsid(0) == os.getpid()\n"),
        (b">>> $", b"\x04"),
    ]),
    "interrupt": (["sh", "-c", "echo on; exec sleep 100"], [(rb"on\r\n", b"\x03")]),
    "handler": (["bash", "--norc", "-c", "trap 'echo caught; sleep 0.3; exit 5' INT; echo on; while :; do sleep 0.05; done"],
                [(rb"on\r\n", b"\x03")]),
    "cat": (["sh", "-c", "echo on; exec cat"], [(rb"on\r\n", b"one\ntwo\x04\x04")]),
    "raw": (["sh", "-c", "stty raw; echo on; head -c 3 | od -c; stty -raw; echo done"], [(rb"on\n", b"\x03\x04\r")]),
    "script": (["script", "-qc", "stty size; echo on; cat", "/dev/null"], [(rb"on\r\n", b"abc\n\x04")]),
    "hang-up": (["sh", "-c", "trap 'exit 6' HUP; echo on; while :; do sleep 0.05; done"], [(rb"on\r\n", "close")]),
}


def hold(name, prefix):
    command, steps = DIALOGUES[name]
    pid, fd = pty.fork()
    if pid == 0:
        os.environ.update(TERM="dumb", PS1="$ ", LC_ALL="C", HISTFILE="")
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        os.execvp((prefix + command)[0], prefix + command)
    seen, log = b"", b""
    closed = False
    for expect, answer in steps:
        end = time.time() + LIMIT
        while not (found := re.search(expect, seen)):
            if not select.select([fd], [], [], max(0, end - time.time()))[0]:
                log += b"\n[no %r]" % expect
                answer = None
                break
            piece = read(fd)
            if not piece:
                log += b"\n[end instead of %r]" % expect
                answer = None
                break
            seen += piece
            log += piece
        if answer is None:
            os.kill(pid, signal.SIGKILL)
            break
        seen = seen[found.end():]
        if answer == "close":
            os.close(fd)
            closed = True
        elif callable(answer):
            answer(fd)
        else:
            os.write(fd, answer)
    while not closed and (piece := read(fd)):
        log += piece
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return log, 128 - code if code < 0 else code


def read(fd):
    try:
        return os.read(fd, 65536)
    except OSError:
        return b""


def main():
    name, prefix = sys.argv[1], sys.argv[2:]
    log, code = hold(name, prefix)
    known = {}
    text = log.decode("utf-8", "replace")
    # Process IDs differ: those of ps become <0>, <1>, …
    rows = r"^ *(\d+) +(\d+) +(\d+) +(\d+) (?=[RST])"
    name_of = lambda number: known.setdefault(number, f"<{len(known)}>")
    text = re.sub(rows, lambda m: " ".join(map(name_of, m.groups())) + " ", text, flags=re.M)
    text = re.sub(r"^(\[\d+\]) \d+", r"\1 <job>", text, flags=re.M)
    text = re.sub(r"(job \d+)\[\d+\]", r"\1[<job>]", text)
    print(text)
    print("status", code)


main()
