"""OpenAI's client through LiteLLM's proxy, which this starts. Prints one object with the pictures in base64."""

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from openai import OpenAI

url = sys.argv[1]
with socket.socket() as sock:
    sock.bind(("127.0.0.1", 0))
    port = sock.getsockname()[1]
served = {"model": "openai/demo", "api_base": f"{url}/v1", "api_key": "none"}
config = {"model_list": [{"model_name": "painter", "litellm_params": served}], "litellm_settings": {"num_retries": 0}}
file = Path(tempfile.mkdtemp()) / "config.yaml"
file.write_text(json.dumps(config))  # JSON is YAML
command = [
    str(Path(sys.executable).parent / "litellm"),
    "--config",
    str(file),
    "--port",
    str(port),
    "--host",
    "127.0.0.1",
]
key = f"sk-{secrets.token_hex(32)}"  # the proxy starts with none but a strong one
environment = {**os.environ, "LITELLM_MASTER_KEY": key}
proxy = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
try:
    for _ in range(1200):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health/liveliness", timeout=5)
            break
        except OSError:
            assert proxy.poll() is None, "the proxy ended"
            time.sleep(0.2)
    client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0, timeout=120)
    few = {"size": "64x64", "num_inference_steps": 2}
    talk = {"model": "painter", "messages": [{"role": "user", "content": "a red circle"}], "extra_body": few}
    found = {}
    made = client.chat.completions.create(**talk)
    found["chat"] = made.choices[0].message.images[0]["image_url"]["url"].partition(",")[2]
    chunks = list(client.chat.completions.create(**talk, stream=True))
    images = [
        image for chunk in chunks for choice in chunk.choices for image in getattr(choice.delta, "images", None) or []
    ]
    found["stream"] = images[0]["image_url"]["url"].partition(",")[2]
    drawn = client.images.generate(
        model="painter", prompt="a star", size="64x64", extra_body={"num_inference_steps": 2}
    )
    found["image"] = drawn.data[0].b64_json
    print(json.dumps(found))
finally:
    proxy.terminate()
    proxy.wait(120)
