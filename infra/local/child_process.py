#!/usr/bin/env python3
"""Runs a program whose life is tied to standard input.

    child_process.py PROGRAM [ARGUMENT...]

Each byte on standard input sends SIGTERM to the program, and so does the end of the input. So the
program ends even if the caller is killed. The exit status is that of the program.
"""
import os
import signal
import subprocess
import sys
import threading

if len(sys.argv) < 2:
    sys.exit("usage: child_process.py PROGRAM [ARGUMENT...]")
signal.signal(signal.SIGINT, signal.SIG_IGN)
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True)
signal.signal(signal.SIGTERM, lambda number, frame: child.terminate())


def watch():
    # Does not read sys.stdin, because its lock would still be held at exit.
    while os.read(0, 1):
        child.terminate()
    child.terminate()


threading.Thread(target=watch, daemon=True).start()
status = child.wait()
sys.exit(status if status >= 0 else 128 - status)
