#!/usr/bin/env python3
"""Installs tools from PyPI for the local AWS, at fixed versions, once, in the user's cache folder.

    tools.py ministack|cargo-lambda        prints the folder with its programs

The tests use the same folders (shared/testkit/src/tools/python.rs), so versions and layout must agree.
"""
import fcntl
import os
import shutil
import subprocess
import sys

TOOLS = {
    "ministack": ("ministack-1.5.33", ["ministack==1.5.33", "aws-sam-translator==1.115.0"]),
    "cargo-lambda": ("cargo-lambda-1.9.2", ["cargo-lambda==1.9.2", "ziglang==0.17.1"]),
}


def programs(tool):
    """The folder with the tool's programs. Installs the tool if necessary."""
    name, packages = TOOLS[tool]
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache):
        cache = os.path.join(os.path.expanduser("~"), ".cache")
    tools = os.path.join(cache, "rdev", "python")
    folder = os.path.join(tools, name)
    ready = os.path.join(folder, "ready")
    if not os.path.isfile(ready):
        os.makedirs(tools, exist_ok=True)
        with open(folder + ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not os.path.isfile(ready):
                print(f"installing {', '.join(packages)} in {folder}", file=sys.stderr, flush=True)
                # The programs contain the path of their folder, so it is created in its final place. The
                # file `ready` marks it as complete.
                shutil.rmtree(folder, ignore_errors=True)
                subprocess.run([sys.executable, "-m", "venv", folder], check=True, stdout=sys.stderr)
                pip = [os.path.join(folder, "bin", "pip"), "install", "--quiet", "--no-cache-dir",
                       "--disable-pip-version-check"]
                subprocess.run(pip + packages, check=True, stdout=sys.stderr)
                open(ready, "w").close()
    return os.path.join(folder, "bin")


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in TOOLS:
        sys.exit(f"usage: tools.py {'|'.join(TOOLS)}")
    try:
        print(programs(sys.argv[1]))
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"tools.py: {error}")
