"""request.py: what makes no sense is refused at the door, with words that say what to do."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlace.errors import InterlaceError, InvalidRequestError
from interlace.request import SAMPLING_FIELDS, Output, SamplingParams


def test_nothing_has_to_be_given() -> None:
    sampling = SamplingParams()
    assert sampling.num_images == 1
    given = {name for name in SAMPLING_FIELDS if getattr(sampling, name) is not None}
    assert given == {"num_images", "priority", "extra"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("height", 0),
        ("height", -64),
        ("height", 64.0),
        ("height", "64"),
        ("width", True),
        ("num_inference_steps", 0),
        ("num_images", 0),
        ("num_images", None),
        ("guidance_scale", 10**400),
        ("guidance_scale", -0.1),
        ("guidance_scale", float("nan")),
        ("guidance_scale", float("inf")),
        ("guidance_scale", "7"),
        ("true_cfg_scale", -1),
        ("strength", 1.01),
        ("strength", -0.01),
        ("seed", -1),
        ("seed", 2**64),
        ("seed", 1.5),
        ("negative_prompt", 7),
        ("negative_prompt", ["a"]),
        ("priority", 1.5),
        ("priority", None),
        ("timeout_s", -1),
        ("num_frames", 0),
        ("max_sequence_length", 0),
        ("extra", [("a", 1)]),
        ("extra", {1: 2}),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequestError, match=name) as caught:
        SamplingParams(**{name: value})
    assert caught.value.param == name
    assert "expected" in str(caught.value)


@given(
    height=st.none() | st.integers(1, 1 << 20),
    guidance_scale=st.none() | st.floats(0, 1e6),
    strength=st.none() | st.floats(0, 1),
    seed=st.none() | st.integers(0, 2**63 - 1),
    priority=st.integers(-(2**31), 2**31),
)
def test_every_value_in_range_is_kept_as_it_is(**values: Any) -> None:
    sampling = SamplingParams(**values)
    assert {name: getattr(sampling, name) for name in values} == values
    assert dataclasses.replace(sampling) == sampling


def test_sampling_params_never_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SamplingParams().seed = 3  # type: ignore[misc]


def test_errors_can_be_caught_as_one_kind_and_as_value_errors() -> None:
    assert issubclass(InvalidRequestError, InterlaceError)
    assert issubclass(InvalidRequestError, ValueError)


def test_outputs_do_not_share_lists() -> None:
    first, second = Output(request_id="a"), Output(request_id="b")
    first.images.append("picture")
    assert second.images == []
    assert first.metrics is not second.metrics
