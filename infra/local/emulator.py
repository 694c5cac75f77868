#!/usr/bin/env python3
"""A local AWS: MiniStack on 127.0.0.1, with nothing in it.

    emulator.py FOLDER [PORT]

Prints one line of JSON when it answers: its endpoint, and the folder with its python3, which has
boto3. Runs until its standard input is closed, by whoever wants it to end or by that one's own
end; then it goes with all that it started. What it writes is in FOLDER.
"""
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

sys.dont_write_bytecode = True
import tools  # noqa: E402, beside this file

START_S = 90


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(folder, programs, port):
    endpoint = f"http://127.0.0.1:{port}"
    environment = {
        "PATH": f"{programs}:{os.environ.get('PATH', '')}",
        "HOME": folder,
        "TMPDIR": folder,
        "S3_DATA_DIR": os.path.join(folder, "s3"),
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "LOG_LEVEL": "WARNING",
        # Its health page tells it from whatever else may listen there.
        "MINISTACK_EDITION": f"rdev-{os.getpid()}",
        # Functions run as processes, also where there is a Docker.
        "DOCKER_HOST": f"unix://{folder}/no-docker",
        "AWS_ENDPOINT_URL": endpoint,
    }
    with open(os.path.join(folder, "emulator.log"), "wb") as log:
        child = subprocess.Popen([os.path.join(programs, "ministack")], cwd=folder, env=environment,
                                 stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                 start_new_session=True)
    return endpoint, child


def answers(endpoint):
    # No proxy of the user's stands before a loopback address.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{endpoint}/_ministack/health", timeout=5) as answer:
            return f"rdev-{os.getpid()}" in answer.read().decode(errors="replace")
    except OSError:
        return False


def end(child):
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: emulator.py FOLDER [PORT]")
    folder = os.path.abspath(sys.argv[1])
    os.makedirs(folder, exist_ok=True)
    programs = tools.programs("ministack")
    endpoint, child = start(folder, programs, int(sys.argv[2]) if sys.argv[2:] else free_port())

    def watch():
        # Not through sys.stdin, whose lock would be held at the end.
        while os.read(0, 4096):
            pass
        end(child)

    # An interrupt at the terminal is for whoever started this.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=watch, daemon=True).start()
    deadline = time.monotonic() + START_S
    while not answers(endpoint):
        if child.poll() is not None or time.monotonic() > deadline:
            end(child)
            sys.exit(f"emulator.py: MiniStack does not answer; see {folder}/emulator.log")
        time.sleep(0.05)
    print(json.dumps({"endpoint": endpoint, "programs": programs}), flush=True)
    child.wait()
    end(child)


if __name__ == "__main__":
    try:
        main()
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"emulator.py: {error}")
