#!/usr/bin/env python3
"""Runs a program whose life is tied to standard input.

    tied.py PROGRAM [ARGUMENT...]

Each byte on standard input is a SIGTERM for the program, and so is its end: whoever started this
may be killed, and still nothing is left behind. Ends as the program does.
"""
import os
import signal
import subprocess
import sys
import threading

if len(sys.argv) < 2:
    sys.exit("usage: tied.py PROGRAM [ARGUMENT...]")
signal.signal(signal.SIGINT, signal.SIG_IGN)
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True)
signal.signal(signal.SIGTERM, lambda number, frame: child.terminate())


def watch():
    # Not through sys.stdin, whose lock would be held at the end.
    while os.read(0, 1):
        child.terminate()
    child.terminate()


threading.Thread(target=watch, daemon=True).start()
status = child.wait()
sys.exit(status if status >= 0 else 128 - status)
