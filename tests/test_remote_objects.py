"""Output in a bucket, on servers of this machine (moto, an emulator of Google's): as in a folder, and resumed."""

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_generator import FakeGenerator

from interlace.cli import session
from interlace.cli.main import run


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "open_generator", lambda *flags: FakeGenerator())


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    s3fs = pytest.importorskip("s3fs", reason="needs s3fs, moto and flask")
    moto = pytest.importorskip("moto.server", reason="needs s3fs, moto and flask")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "nobody")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    yield s3fs.S3FileSystem()
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture
def gs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    emulator = pytest.importorskip("gcp_storage_emulator.server", reason="needs gcsfs and gcp-storage-emulator")
    os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"  # read at its import: the emulator has no gRPC
    gcsfs = pytest.importorskip("gcsfs", reason="needs gcsfs and gcp-storage-emulator")
    from fsspec.config import conf

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = emulator.create_server("127.0.0.1", port, in_memory=True)
    server.start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    monkeypatch.setitem(conf, "gs", {"token": "anon"})
    gcsfs.GCSFileSystem.clear_instance_cache()
    yield gcsfs.GCSFileSystem(project="nobody")
    gcsfs.GCSFileSystem.clear_instance_cache()
    server.stop()


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_run_leaves_in_a_bucket_what_it_leaves_in_a_folder_and_goes_on(
    scheme: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    files: Any = request.getfixturevalue(scheme)
    files.mkdir("bucket")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in "abcd"))
    command = ["t2i", "--prompts-file", str(rows), "--output-dir"]
    assert run([*command, f"{scheme}://bucket/run"]) == 0
    assert run([*command, str(tmp_path / "local")]) == 0
    local = {path.name: path for path in (tmp_path / "local").iterdir() if not path.name.startswith(".")}
    names = {path.rsplit("/", 1)[-1] for path in files.find("bucket/run")}
    assert names == set(local)
    for name in names:
        if name.endswith(".png"):
            assert files.cat_file(f"bucket/run/{name}") == local[name].read_bytes()
    before = files.modified("bucket/run/000000.png")
    files.rm_file("bucket/run/000002.png")
    assert run([*command, f"{scheme}://bucket/run"]) == 0
    files.invalidate_cache()
    lines = [json.loads(line) for line in files.cat_file("bucket/run/manifest.jsonl").splitlines()]
    assert sorted(line["file"] for line in lines) == [f"{number:06d}.png" for number in range(4)]
    assert files.exists("bucket/run/000002.png")
    assert files.modified("bucket/run/000000.png") == before
