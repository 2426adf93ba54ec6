"""Rows with pictures and sound: a language model sees and hears them, and writes the prompt of what is drawn."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from interlace import Omni, create_ar_stage_config, create_dit_stage_config
from interlace.bulk.generator import OmniGenerator
from interlace.bulk.input.columns import Columns
from interlace.bulk.input.formats import Record
from interlace.bulk.input.rows import BadRow, Row, read_row
from interlace.bulk.output.keys import ModelId, request_key
from interlace.media.sound import encode_wav
from interlace.request import SamplingParams
from tests.stages.omni_models import save_seeing
from tests.stages.test_omni_models import PICTURE


def row_of(folder: Path, **cells: object) -> Row | BadRow:
    return read_row(Record("rows:1", {"prompt": "what is it", **cells}), "r1", SamplingParams(), Columns(), folder)


def test_a_rows_pictures_reach_the_language_model_and_end_there(tmp_path: Path) -> None:
    for place in range(2):
        PICTURE.rotate(90 * place).save(tmp_path / f"{place}.png")
    small = {"height": 64, "width": 64, "num_inference_steps": 2}
    stages = [
        create_ar_stage_config(0, str(save_seeing(tmp_path / "model")), input_modalities=("text", "image"),
                               default_sampling_params={"max_tokens": 12, "temperature": 0}),
        create_dit_stage_config(1, "demo", default_sampling_params=small),
    ]  # fmt: skip
    rows = [row_of(tmp_path), row_of(tmp_path, multi_modal_data={"image": "0.png"}),
            row_of(tmp_path, multi_modal_data=json.dumps({"image": ["0.png", "1.png"]}))]  # fmt: skip
    jobs = [next(row.jobs(0)) for row in rows if isinstance(row, Row)]
    assert len({request_key(job, ModelId(model="m")) for job in jobs}) == 3
    with Omni(stages=stages) as omni:
        generator = OmniGenerator(omni)
        outputs = [generator.submit(job).result(timeout=120) for job in jobs]
        alone = omni.generate([{"prompt": "what is it", "multi_modal_data": {"image": PICTURE}}], return_stages=True)[0]
        assert [output.error for output in outputs] == [None] * 3
        assert outputs[1].text == alone.text
        assert len({output.text for output in outputs}) == 3
        assert all(isinstance(output.images[0], Image.Image) for output in outputs)


def test_rows_name_sound_and_films_as_they_name_pictures(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(encode_wav(np.zeros(800, np.float32), 16000))
    row = row_of(tmp_path, multi_modal_data={"audio": "a.wav", "image": "data:image/png;base64,AAAA"})
    assert isinstance(row, Row)
    assert [(kind, source.name) for kind, source in row.media] == [("image", "data:image/png;base64,..."),
                                                                   ("audio", "a.wav")]  # fmt: skip
    assert next(row.jobs(0)).pictures == tuple(source for _, source in row.media)


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ({"smell": 1}, "expected an object with some of image, audio, video"),
        ("{", "no JSON"),
        ({"audio": "none.wav"}, "can't be read"),
        ({"video": "http://example.com/a.mp4"}, "--allow-remote-images"),
    ],
)
def test_media_that_are_not_there_or_no_media_are_refused(tmp_path: Path, cell: object, words: str) -> None:
    row = row_of(tmp_path, multi_modal_data=cell)
    assert isinstance(row, BadRow)
    assert words in row.error
