"""What a user may rely on: a run that is killed again and again, at any moment, ends with what it would have made.

This file is also the script that runs the rounds: it loads the model once and forks a child for every round, so that
a round costs no start. The children run the command line itself.
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

NUM_ROWS, NUM_KILLS = 200, 40
FILMS, FILM_KILLS = 12, 6  # `python tests/test_kill.py FOLDER films 60 40` is the long way
FAULTS = ("half a file", "temporary written", "renamed", "before a line", "half a line", "line written")


def test_forty_kills_then_one_run_leave_what_an_undisturbed_run_leaves(tmp_path: Path) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    script = subprocess.run(
        [sys.executable, __file__, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=1500
    )
    assert script.returncode == 0, script.stderr[-3000:]
    told = json.loads(script.stdout.splitlines()[-1])
    print(told)
    assert told["kills"] == NUM_KILLS
    assert told["statuses"] == [0, 0]
    assert 0 < told["lines_before_last_run"] < NUM_ROWS

    calm, killed = tmp_path / "calm", tmp_path / "killed"
    expected = [f"{number:06d}.png" for number in range(NUM_ROWS)]
    assert sorted(path.name for path in killed.glob("*.png")) == expected
    assert not list(killed.glob(".tmp-*"))
    lines = [json.loads(line) for line in (killed / "manifest.jsonl").read_text().splitlines()]
    assert sorted(line["file"] for line in lines) == expected
    for line in lines:
        data = (killed / line["file"]).read_bytes()
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (line["sha256"], line["size_bytes"])
        assert data == (calm / line["file"]).read_bytes()
        with Image.open(killed / line["file"]) as image:
            image.load()
            assert image.size == (64, 64)
    assert (killed / "failures.jsonl").read_bytes() == b""
    facts = json.loads((killed / "summary.json").read_text())
    assert facts["done"] + facts["already_done"] == NUM_ROWS
    assert (facts["left"], facts["failed"]) == (0, 0)


def test_a_run_of_films_that_is_killed_ends_with_each_film_once(tmp_path: Path) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    command = [sys.executable, __file__, str(tmp_path), "films", str(FILMS), str(FILM_KILLS)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    script = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1500)
    assert script.returncode == 0, script.stderr[-3000:]
    assert json.loads(script.stdout.splitlines()[-1])["kills"] == FILM_KILLS
    check_films(tmp_path, FILMS)


def check_films(folder: Path, count: int) -> None:
    """Each film is there once, whole, and the one that an undisturbed run makes."""
    import av

    calm, killed = folder / "calm", folder / "killed"
    expected = [f"{number:06d}.mp4" for number in range(count)]
    assert sorted(path.name for path in killed.glob("*.mp4")) == expected
    assert not list(killed.glob(".tmp-*"))
    lines = [json.loads(line) for line in (killed / "manifest.jsonl").read_text().splitlines()]
    assert sorted(line["file"] for line in lines) == expected
    for line in lines:
        data = (killed / line["file"]).read_bytes()
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (line["sha256"], line["size_bytes"])
        assert data == (calm / line["file"]).read_bytes()
        with av.open(str(killed / line["file"])) as container:
            assert sum(1 for _ in container.decode(video=0)) == 5


def rounds(
    folder: Path, kind: str = "pictures", num_rows: int = NUM_ROWS, num_kills: int = NUM_KILLS
) -> dict[str, object]:
    from interlace import Omni
    from interlace.bulk.generator import OmniGenerator
    from interlace.cli import session
    from interlace.cli.main import run
    from interlace.models.loader import LoadedModel, load_model

    if kind == "films":
        from tests.zoo import FAMILIES

        small = {"height": 16, "width": 16, "max_sequence_length": 16, "num_frames": 5}
        model, flags = LoadedModel("tiny-wan", FAMILIES["wan"].build(), small), ["--model", "tiny-wan"]
    else:
        model, flags = load_model("demo", device="cpu"), ["--height", "64", "--width", "64"]
    command = "t2v" if kind == "films" else "t2i"
    generator = lambda flags, engine, *_: OmniGenerator(Omni(model, **vars(engine)))  # noqa: E731
    session.open_generator = generator  # type: ignore[assignment]
    prompts = folder / "prompts.txt"
    prompts.write_text("".join(f"a circle number {number}\n" for number in range(num_rows)))
    flags += ["--num-inference-steps", "1"]
    # One number of rows in all forwards: company, which differs from run to run, leaves no trace in the bits. For films
    # it is one: in an autoencoder as small as theirs torch rounds the last row of four otherwise than the others.
    rows = "1" if kind == "films" else "4"
    flags += ["--batch-size", "4", "--max-batch-rows", rows, "--batch-invariant"]

    def begin(name: str, fault: str = "") -> int:
        child = os.fork()
        if child == 0:
            os.environ["INTERLACE_FAULT"] = fault
            os._exit(run([command, "--prompts-file", str(prompts), "--output-dir", str(folder / name), *flags]))
        return child

    def end(child: int) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def num_left() -> int:
        manifest = folder / "killed" / "manifest.jsonl"
        return num_rows - (manifest.read_bytes().count(b"\n") if manifest.exists() else 0)

    chance = random.Random(0)
    started = time.perf_counter()
    statuses = [end(begin("calm"))]
    seconds = [time.perf_counter() - started]
    kills = 0
    while kills < num_kills and (left := num_left()):
        # Each kill gets its share of what is left, and some rows stay, however fast the machine has become meanwhile.
        share = max(left // (num_kills - kills + num_kills // 4), 1)
        if kills % 2:
            child = begin("killed", f"{chance.choice(FAULTS)}:{chance.randint(1, min(2 * share, left))}")
        else:
            child = begin("killed")
            until = time.perf_counter() + chance.uniform(0.0, seconds[0] / 30)
            while time.perf_counter() < until and left - num_left() < share:
                time.sleep(0.002)
            os.kill(child, signal.SIGKILL)
        kills += end(child) == -signal.SIGKILL
    seconds.append(time.perf_counter() - started)
    lines = num_rows - num_left()
    statuses.append(end(begin("killed")))
    seconds.append(time.perf_counter() - started)
    return {"kills": kills, "statuses": statuses, "lines_before_last_run": lines, "seconds": seconds}


if __name__ == "__main__":
    kind, *numbers = sys.argv[2:] or ["pictures"]
    told = rounds(Path(sys.argv[1]), kind, *map(int, numbers))
    if kind == "films":
        check_films(Path(sys.argv[1]), int(numbers[0]))
    print(json.dumps(told))
