"""Words on stderr: one JSON object a line whoever writes it, lines for people; names of the environment; TLS."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

import pytest

from interlace.cli.flags.file import flags_of_commands
from interlace.cli.help.environment import misspelt
from interlace.cli.help.migrants import FOREIGN, in_our_words
from interlace.cli.help.names import names_of
from interlace.cli.main import app
from interlace.errors import InvalidRequestError
from interlace.serve.logs import as_object, wanted_format

_WRITES = """
import logging, os, subprocess, sys, warnings
from interlace.serve.logs import log_to_stderr
log_to_stderr("json", "info")
logging.getLogger("interlace.serve").info("hello %s", "there")
logging.getLogger("uvicorn.error").error("from uvicorn")
logging.getLogger("interlace.access").info("x", extra={"fields": {"id": "req-1", "status": 200}})
warnings.warn("old thing")
print("printed", file=sys.stderr)
os.write(2, b"from C++\\n")
subprocess.run([sys.executable, "-c", "import sys; sys.stderr.write('from a child\\\\n')"])
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("interlace.serve").exception("it failed")
raise RuntimeError("last words")
"""


def test_every_line_on_stderr_is_one_json_object() -> None:
    done = subprocess.run([sys.executable, "-c", _WRITES], capture_output=True, text=True, timeout=120, check=False)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert all(isinstance(line, dict) and {"time", "level", "logger"} <= set(line) for line in lines)
    said = [str(line.get("message")) for line in lines]
    for words in ("hello there", "from uvicorn", "printed", "from C++", "from a child", "RuntimeError: last words"):
        assert any(words in one for one in said), words
    assert any("old thing" in one for one in said)
    assert {"id": "req-1", "status": 200}.items() <= next(line for line in lines if line.get("id")).items()
    failed = next(line for line in lines if line.get("message") == "it failed")
    assert "ZeroDivisionError" in failed["traceback"]


def test_lines_that_are_objects_already_stay_as_they_are() -> None:
    assert as_object('{"a": 1}') == '{"a": 1}'
    for line in ("{broken", "[1]", "1", "plain"):
        assert json.loads(as_object(line))["message"] == line


@pytest.mark.parametrize(
    ("words", "environ", "wanted"),
    [
        (["serve", "--log-format", "json"], {}, "json"),
        (["serve", "--log_format=text"], {"INTERLACE_LOG_FORMAT": "json"}, "text"),
        (["serve"], {"INTERLACE_LOG_FORMAT": "json"}, "json"),
        (["serve"], {}, None),
    ],
)
def test_the_format_is_known_before_flags_are_read(words: Sequence[str], environ: dict, wanted: str | None) -> None:
    assert wanted_format(words, environ) == wanted


class Process:
    """`interlace serve` as a process of its own; what it wrote on both streams."""

    def __init__(self, *flags: str, **environ: str) -> None:
        command = [sys.executable, "-m", "interlace", "serve", "--port", "0", "--no-warmup", *flags]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environ}
        )
        self.errors: list[str] = []
        self._thread = threading.Thread(target=lambda: self.errors.extend(self.process.stderr), daemon=True)
        self._thread.start()
        self.listening = self.process.stdout.readline()

    def stop(self) -> list[str]:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(120) == 0
        self._thread.join(60)
        return self.errors


def test_a_server_says_what_an_operator_wants_to_know() -> None:
    server = Process("--host", "0.0.0.0", INTERLACE_MAX_STEP="3")
    assert server.listening.startswith("listening on http://0.0.0.0:")
    lines = [json.loads(line) for line in server.stop()]
    said = " ".join(str(line.get("message")) for line in lines)
    assert "INTERLACE_MAX_STEP is not known and changes nothing; did you mean INTERLACE_MAX_STEPS?" in said
    assert "without keys" in said
    assert "loading demo" in said
    assert "loaded demo in" in said


def test_text_for_people() -> None:
    server = Process("--log-format", "text")
    errors = server.stop()
    assert any("INFO interlace.serve: loading demo" in line for line in errors)
    assert not any(line.startswith("{") for line in errors)


@pytest.mark.parametrize("flags", [["--prot", "1"], ["--ssl-certfile", "missing.pem"], ["--port", "99999"]])
def test_errors_in_flags_are_objects_too(flags: list[str]) -> None:
    command = [sys.executable, "-m", "interlace", "serve", "--log-format", "json", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert any("error: " in line["message"] for line in lines)


def test_misspelt_variables_are_named() -> None:
    known = flags_of_commands(app)
    environ = {"INTERLACE_PORT": "1", "INTERLACE_CACHE_DIR": "x", "INTERLACE_TEST_URL": "x", "OTHER": "x",
               "INTERLACE_MAX_NUM_SEQ": "1", "INTERLACE_ZZZZ": "1"}  # fmt: skip
    seqs, unknown = misspelt(environ, known)
    assert "did you mean INTERLACE_MAX_NUM_SEQS?" in seqs
    assert unknown.startswith("the environment variable INTERLACE_ZZZZ is not known")


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("--model-path m --batching-max-size=8", "--model m --max-num-seqs 8"),
        ("m --omni --vae-use-slicing --vae-use-tiling", "m --omni --enable-vae-slicing --enable-vae-tiling"),
        ("--dit-cpu-offload true --vae-cpu-offload --text-encoder-cpu-offload false", "--enable-cpu-offload"),
        ("--cache-backend tea_cache --cache-config {}", "--cache-type step_cache"),
        ('--default-sampling-params {"0":{"num_inference_steps":20,"guidance_scale":4}}',
         "--dit-steps 20 --dit-guidance-scale 4"),
        ("--enforce-eager --trust-remote-code --stage-init-timeout 600 --port 9", "--port 9"),
        ('--allowed-origins ["https://a.example","https://b.example"]',
         "--cors-origin https://a.example --cors-origin https://b.example"),
        ("--tensor-parallel-size 1 --served-model-name x", "--model-alias x"),
        ("--diffusion-attention-backend native -- --tp-size", "--attention-backend native -- --tp-size"),
    ],
)  # fmt: skip
def test_migrants_flags_in_our_words(theirs: str, ours: str) -> None:
    assert in_our_words(["serve", *theirs.split()]) == ["serve", *ours.split()]
    assert in_our_words(["t2i", *theirs.split()]) == ["t2i", *theirs.split()]


@pytest.mark.parametrize(
    "words",
    ["--tp-size 2", "--lora-path x", "--max-model-len 4096", "--cache-backend magic", "--served-model-name",
     "--default-sampling-params nonsense", '--default-sampling-params {"seed":1}', "--performance-mode speed"],
)  # fmt: skip
def test_migrants_flags_without_a_counterpart_say_what_to_use(words: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"use|expected|needs|no JSON"):
        in_our_words(["serve", *words.split()])


def test_migrants_flags_become_flags_that_are_there() -> None:
    known = names_of(app, ["serve"]) | {"model"}  # of every command, short for --model-name
    for foreign in FOREIGN.values():
        for flag in [word.strip("`, ") for word in foreign.says.split() if word.startswith("`--")]:
            assert flag.lstrip("-").replace("-", "_") in known, (foreign.name, flag)
        assert foreign.name.lstrip("-").replace("-", "_") not in known, f"{foreign.name} is a flag of ours"


def test_a_server_speaks_tls(tmp_path) -> None:
    import httpx
    from tls import certificate

    cert, key = certificate(tmp_path)
    server = Process("--ssl-certfile", str(cert), "--ssl-keyfile", str(key))
    assert server.listening.startswith("listening on https://127.0.0.1:")
    url = server.listening.split()[-1]
    until = time.monotonic() + 60
    with httpx.Client(verify=str(cert), timeout=60) as http:
        while time.monotonic() < until and http.get(f"{url}/liveness").status_code != 200:
            time.sleep(0.1)
        assert http.get(f"{url}/version").status_code == 200
    server.stop()
