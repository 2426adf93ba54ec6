#!/usr/bin/env python3
"""Runs the commands of a Dockerfile without Docker: its pip lines in a clean venv over the files that it copies, then
its server, until the health check says that all is well, a picture is made, and it ends on its stop signal.

    python scripts/check_dockerfile.py deploy/docker/Dockerfile.cpu

What it can't do here (users, volumes, apt, the base image) is left out and listed. Downloads torch: minutes. The last
line is one JSON object; exit status 1 where a command fails.
"""

import argparse
import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEALTHY_S = 300


def instructions(text: str) -> list[tuple[str, str]]:
    """Of a Dockerfile, in order, without comments: ("RUN", "pip install ...")."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(word, rest.strip()) for word, rest in re.findall(r"^([A-Z]+)\s+(.*)$", joined, re.M)]


def copy(steps: list[tuple[str, str]], context: Path) -> None:
    """What COPY names, and nothing else, to where it is to be."""
    for word, rest in steps:
        if word == "COPY":
            *sources, to = rest.split()
            for source in sources:
                target = context / to / (Path(source).name if to.endswith("/") else "")
                if (ROOT / source).is_dir():
                    ignored = shutil.ignore_patterns("__pycache__")
                    shutil.copytree(ROOT / source, context / to, dirs_exist_ok=True, ignore=ignored)
                else:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(ROOT / source, target)


def install(steps: list[tuple[str, str]], context: Path, venv: Path) -> list[str]:
    """Runs the lines that are pip's; returns the others."""
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    path = f"{venv / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    left = []
    for word, rest in steps:
        if word != "RUN":
            continue
        if not rest.startswith("pip "):
            left.append(rest)
            continue
        print(f"RUN {rest}", file=sys.stderr)
        command = rest.replace("--no-cache-dir ", "")
        subprocess.run(command, shell=True, cwd=context, env={**environment, "PATH": path}, check=True, stdout=2)
    return left


def serve(steps: list[tuple[str, str]], venv: Path, home: Path) -> dict[str, object]:
    """ENTRYPOINT and CMD on a free port of this machine, HEALTHCHECK's own command against it, a picture, the end."""
    found = dict(steps)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    given = json.loads(found["ENTRYPOINT"]) + json.loads(found["CMD"])
    words = [port if word == "8000" else "127.0.0.1" if word == "0.0.0.0" else word for word in given]
    check = json.loads(found["HEALTHCHECK"].partition("CMD ")[2])
    check = [word.replace(":8000/", f":{port}/") for word in check]
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"HOME": str(home), "INTERLACE_CACHE_DIR": str(home), "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    started = time.monotonic()
    server = subprocess.Popen([venv / "bin" / words[0], *words[1:]], env=environment, cwd=home, stdout=2)
    try:
        while subprocess.run([venv / "bin" / check[0], *check[1:]], stderr=subprocess.DEVNULL, check=False).returncode:
            if server.poll() is not None or time.monotonic() > started + HEALTHY_S:
                raise SystemExit(f"the server is not healthy after {time.monotonic() - started:.0f} s")
            time.sleep(0.5)
        healthy = time.monotonic() - started
        body = json.dumps({"prompt": "a red circle"}).encode()
        url = f"http://127.0.0.1:{port}/v1/images/generations"
        request = urllib.request.Request(url, body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=HEALTHY_S) as answer:
            picture = base64.b64decode(json.load(answer)["data"][0]["b64_json"])
        assert picture.startswith(b"\x89PNG")
        server.send_signal(getattr(signal, found.get("STOPSIGNAL", "SIGTERM")))
        return {"healthy_s": round(healthy, 1), "picture_bytes": len(picture), "exit_status": server.wait(60)}
    finally:
        server.kill()
        server.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dockerfile", type=Path)
    steps = instructions(parser.parse_args().dockerfile.read_text())
    with tempfile.TemporaryDirectory() as folder:
        context, venv, home = (Path(folder) / name for name in ("src", "venv", "home"))
        home.mkdir()
        copy(steps, context)
        left = install(steps, context, venv)
        told = serve(steps, venv, home)
    print(json.dumps({"check": "dockerfile", **told, "left_out": left}))
    return int(told["exit_status"] != 0)


if __name__ == "__main__":
    sys.exit(main())
