"""Fields that other software sends: what asks for nothing passes, what changes no picture is warned of."""

from pathlib import Path

import pytest

from interlace.serve.leniency.doc import renewed
from interlace.serve.leniency.names import nearest
from interlace.serve.leniency.sift import FieldError, sift
from interlace.serve.leniency.table import KNOWN, MEANT, NEUTRAL, RENAMED
from interlace.serve.orders.fields import EditFields, GenerationFields, VideoFields

OWN = GenerationFields.names()


def test_a_neutral_value_is_never_refused_or_warned_of() -> None:
    for known in KNOWN.values():
        texts = [str(one).lower() for one in known.neutral if not isinstance(one, dict)]
        for value in (None, "", [], {}, *known.neutral, *texts):
            for strict in (False, True):
                sent = {"prompt": "a", known.name: value}
                assert sift(sent, ["prompt"], strict=strict) == ({"prompt": "a"}, []), sent


def test_what_asks_for_something_is_warned_of_where_it_changes_no_picture() -> None:
    for known in KNOWN.values():
        if known.draws:
            with pytest.raises(FieldError, match=known.name):
                sift({known.name: "something"}, ["prompt"])
            continue
        kept, warnings = sift({known.name: "something"}, ["prompt"])
        assert (kept, len(warnings)) == ({}, 1)
        assert warnings[0].startswith(known.name)
        with pytest.raises(FieldError) as refused:
            sift({known.name: "something"}, ["prompt"], strict=True)
        assert (refused.value.param, refused.value.code) == (known.name, "unsupported_field")


def test_fields_of_ours_are_not_in_the_table_of_others() -> None:
    """But for those that only some endpoints honour."""
    assert {name for name in OWN if name in KNOWN} == {"response_format"}, "of chats it is another thing"
    assert set(NEUTRAL) - {"top_k"} <= {*OWN, *VideoFields.names()}
    assert {RENAMED[name] for name in RENAMED} <= {*OWN, *EditFields.names(), *VideoFields.names()}
    assert {MEANT[name] for name in MEANT} <= {*OWN, *VideoFields.names()}


@pytest.mark.parametrize(
    ("sent", "meant"),
    [("steps", "num_inference_steps"), ("num_inference_step", "num_inference_steps"), ("cfg_scale", "guidance_scale"),
     ("sise", "size"), ("Seed ", "seed"), ("negative", "negative_prompt"), ("promt", "prompt"),
     ("n_images", "n"), ("stepz", "num_inference_steps"), ("xyzzy", None)],
)  # fmt: skip
def test_an_unknown_field_is_refused_with_the_nearest_name(sent: str, meant: str | None) -> None:
    with pytest.raises(FieldError) as refused:
        sift({sent: 4}, OWN)
    assert refused.value.code == "unknown_field"
    if meant:
        assert f"did you mean {meant}?" in str(refused.value)


def test_an_unknown_field_is_refused_even_when_it_says_nothing() -> None:
    with pytest.raises(FieldError, match="num_inference_steps"):
        sift({"steps": None}, OWN)


def test_a_literal_extra_body_is_unwrapped() -> None:
    body = {"prompt": "a", "extra_body": {"seed": 3, "temperature": 0.5, "n": None}, "n": 2}
    assert sift(body, OWN)[0] == {"prompt": "a", "seed": 3, "n": 2}
    assert sift({"extra_body": '{"seed": 3}'}, OWN)[0] == {"seed": 3}
    assert sift({"extra_body": None}, OWN) == ({}, [])
    assert sift({"seed": 3, "extra_body": {"seed": 3}}, OWN)[0] == {"seed": 3}
    with pytest.raises(Exception, match="given twice"):
        sift({"seed": 3, "extra_body": {"seed": 4}}, OWN)


def test_other_names_stand_for_ours() -> None:
    assert sift({"num_outputs_per_prompt": 2}, OWN)[0] == {"n": 2}
    edit = sift({"url": ["data:x"], "mask_image": "y"}, EditFields.names())[0]
    assert edit == {"image": ["data:x"], "mask": "y"}
    with pytest.raises(Exception, match="given twice"):
        sift({"num_outputs_per_prompt": 2, "n": 3}, OWN)


def test_neutral_values_of_our_own_fields() -> None:
    sent = {"seed": -1, "partial_images": "0", "size": "", "lora": [], "quality": None, "extra_params": {}}
    assert sift(sent, OWN) == ({}, [])
    assert sift({"prompt": "", "negative_prompt": ""}, OWN)[0] == {"prompt": "", "negative_prompt": ""}


def test_true_is_not_one() -> None:
    assert sift({"temperature": 1.0}, OWN)[1] == []
    assert len(sift({"temperature": True}, OWN)[1]) == 1


def test_nearest_says_nothing_rather_than_guess() -> None:
    assert nearest("zzz", OWN) is None
    assert nearest("x" * 10_000, OWN) is None


def test_the_tables_in_the_documentation_are_the_codes() -> None:
    page = (Path(__file__).parents[2] / "docs/server.md").read_text()
    assert renewed(page) == page, "run: python -m interlace.serve.leniency.doc docs/server.md"
