"""A bulk run with `--backend openai` against Interlace's own server: the pictures are those of a local run."""

from pathlib import Path

import openai
from PIL import Image, ImageChops

from interlace import AsyncOmni
from interlace.bulk.backends import open_api_generator
from interlace.bulk.input.media import DataImage
from interlace.bulk.input.rows import Job, Rows
from interlace.bulk.output.sink import ModelId, Sink, read_manifest
from interlace.bulk.plan import RunOptions
from interlace.bulk.run import run_bulk
from interlace.cli.flags.api import ApiFlags
from interlace.request import SamplingParams
from serve.live import Live, picture, png

SMALL = SamplingParams(num_inference_steps=2, width=64, height=64)
PROMPTS = ["a red circle", "a blue star", "a green square", "a yellow ring"]


def flags(server: Live) -> ApiFlags:
    return ApiFlags(base_url=[f"{server.url}/v1"], num_processes=4)


def test_a_bulk_run_over_the_server_makes_the_pictures_of_a_local_one(
    server: Live, engines: tuple[AsyncOmni, AsyncOmni], tmp_path: Path
) -> None:
    options = RunOptions(model=ModelId(model="demo"), max_num_seqs=4, html=False)
    with Sink(tmp_path) as sink:
        rows = Rows.from_prompts(PROMPTS, SMALL)
        result = run_bulk(rows, sink, options, lambda: open_api_generator("openai", "demo", flags(server)))
    assert result.exit_status == 0
    lines = list(read_manifest(tmp_path))
    assert sorted(line["prompt"] for line in lines) == sorted(PROMPTS)
    for line in lines:
        params = SamplingParams(num_inference_steps=2, width=64, height=64, seed=line["seed"])
        alone = engines[0].omni.generate(line["prompt"], params)[0].images[0]
        with Image.open(tmp_path / line["file"]) as image:
            assert is_close(image, alone)


def test_an_edit_is_the_one_that_the_sdk_gets(server: Live) -> None:
    params = SamplingParams(num_inference_steps=2, seed=3, width=64, height=64)
    job = Job(row_id="e", index=0, name="e", prompt="make it blue", sampling=params, images=(DataImage(png()),))
    made = open_api_generator("openai", "demo", flags(server))
    output = made.submit(job).result(60)
    made.close()
    assert output.error is None, output.error
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    extra = {"num_inference_steps": 2, "seed": 3}
    answer = client.images.edit(image=("a.png", png()), prompt="make it blue", size="64x64", extra_body=extra)
    assert is_close(output.images[0], picture(answer.data[0].b64_json))
    assert output.seeds == [3]


def is_close(one: Image.Image, other: Image.Image) -> bool:
    """Rows that share a forward are rounded in another order than one alone: by a level or two of 255."""
    extrema = ImageChops.difference(one.convert("RGB"), other.convert("RGB")).getextrema()
    return one.size == other.size and max(high for _, high in extrema) <= 2
