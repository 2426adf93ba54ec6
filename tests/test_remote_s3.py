"""Output in an S3 bucket, on a server of moto's on this machine: what is written in a folder, and resumed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_generator import FakeGenerator

from interlace.cli import session
from interlace.cli.main import run

s3fs = pytest.importorskip("s3fs", reason="needs s3fs and moto[server]")
server = pytest.importorskip("moto.server", reason="needs s3fs and moto[server]")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The store's files, with an empty bucket."""
    store = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    store.start()
    host, port = store.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "nobody")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(session, "open_generator", lambda *flags: FakeGenerator())
    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem()
    files.mkdir("bucket")
    yield files
    s3fs.S3FileSystem.clear_instance_cache()
    store.stop()


def test_a_run_leaves_in_a_bucket_what_it_leaves_in_a_folder_and_goes_on(bucket: Any, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in "abcd"))
    command = ["t2i", "--prompts-file", str(rows), "--output-dir"]
    assert run([*command, "s3://bucket/run"]) == 0
    assert run([*command, str(tmp_path / "local")]) == 0
    local = {path.name: path for path in (tmp_path / "local").iterdir() if not path.name.startswith(".")}
    names = {path.rsplit("/", 1)[-1] for path in bucket.find("bucket/run")}
    assert names == set(local)
    for name in names:
        if name.endswith(".png"):
            assert bucket.cat_file(f"bucket/run/{name}") == local[name].read_bytes()
    before = bucket.info("bucket/run/000000.png")["LastModified"]
    bucket.rm_file("bucket/run/000002.png")
    assert run([*command, "s3://bucket/run"]) == 0
    lines = [json.loads(line) for line in bucket.cat_file("bucket/run/manifest.jsonl").splitlines()]
    assert sorted(line["file"] for line in lines) == [f"{number:06d}.png" for number in range(4)]
    assert bucket.exists("bucket/run/000002.png")
    assert bucket.info("bucket/run/000000.png")["LastModified"] == before
