#!/usr/bin/env python3
"""A local AWS: an empty MiniStack on 127.0.0.1.

    emulator.py FOLDER [PORT]

When the emulator answers, the script prints one line of JSON: the endpoint, and the folder with a
python3 that has boto3. It runs until its standard input is closed. That happens when the caller closes
it, or when the caller ends. Then the script ends all processes that it started. All files are in FOLDER.
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
        # With this text, the health page identifies this emulator, if another program listens there.
        "MINISTACK_EDITION": f"rdev-{os.getpid()}",
        # Functions run as processes, even if Docker is installed.
        "DOCKER_HOST": f"unix://{folder}/no-docker",
        "AWS_ENDPOINT_URL": endpoint,
    }
    with open(os.path.join(folder, "emulator.log"), "wb") as log:
        child = subprocess.Popen([os.path.join(programs, "ministack")], cwd=folder, env=environment,
                                 stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                 start_new_session=True)
    return endpoint, child


def answers(endpoint):
    # A loopback address is never reached through the user's proxy.
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
        # Does not read sys.stdin, because its lock would still be held at exit.
        while os.read(0, 4096):
            pass
        end(child)

    # An interrupt at the terminal is meant for the caller.
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
