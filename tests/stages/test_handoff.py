"""Handoffs: what one stage made as the next stage's prompt."""

import pytest
import torch
from PIL import Image

from interlace.errors import InvalidRequestError, RequestError
from interlace.request import Output
from interlace.stages.config import HandoffConfig
from interlace.stages.handoff import Handover, resolve


def handover(user: dict[str, object] | None = None, **output: object) -> Handover:
    user = user or {"prompt": "a star", "height": 64}
    made = Output(request_id="r", **output)  # type: ignore[arg-type]
    return Handover(output=made, prompt=user, user_prompt=user, outputs=(made,))


def run(name: str, given: Handover, **options: object) -> dict[str, object]:
    return dict(resolve(HandoffConfig(function=name, options=options))(given))


def test_text_becomes_the_prompt_trimmed_and_in_a_template() -> None:
    text = "  a large\n red star \n"
    assert run("text_to_prompt", handover(text=text)) == {"prompt": "a large red star", "height": 64}
    made = run("text_to_prompt", handover(text=text), template="{prompt}: {text}, oil")
    assert made["prompt"] == "a star: a large red star, oil"
    assert run("text_to_prompt", handover(text=text), max_chars=10)["prompt"] == "a large"
    assert run("text_to_prompt", handover(text="abcdefgh"), max_chars=3)["prompt"] == "abc"


def test_an_empty_text_gives_the_users_own_prompt_or_an_error() -> None:
    assert run("text_to_prompt", handover(text=" "))["prompt"] == "a star"
    with pytest.raises(RequestError, match="wrote nothing"):
        run("text_to_prompt", handover(text=" "), fallback=False)


def test_hidden_states_take_the_prompts_place() -> None:
    hidden = torch.ones(1, 3, 8)
    made = run("hidden_states_to_prompt_embeds", handover(hidden_states=hidden), mask_argument="prompt_attention_mask")
    assert "prompt" not in made
    assert made["extra"]["prompt_embeds"] is hidden
    assert made["extra"]["prompt_attention_mask"].shape == (1, 3)
    with pytest.raises(RequestError, match="set hidden_layer"):
        run("hidden_states_to_prompt_embeds", handover())


def test_the_drawing_conditions_the_edit() -> None:
    image = Image.new("RGB", (4, 4))
    made = run("image_to_image", handover(images=[image]), prompt="make the {prompt} blue")
    assert (made["prompt"], made["multi_modal_data"]) == ("make the a star blue", {"image": image})
    assert run("image_to_image", handover(images=[image]))["prompt"] == "a star"
    with pytest.raises(RequestError, match="drew no image"):
        run("image_to_image", handover())


def shout(given: Handover, *, mark: str = "!") -> dict[str, object]:
    return {**given.prompt, "prompt": str(given.output.text).upper() + mark}


def test_ones_own_function_is_named_by_module() -> None:
    made = run("tests.stages.test_handoff:shout", handover(text="star"), mark="?")
    assert made == {"prompt": "STAR?", "height": 64}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("text_to_prmopt", {}, "expected text_to_prompt, .* or module:function"),
        ("tests.stages.test_handoff:whisper", {}, "can't be imported"),
        ("no_such_module:f", {}, "can't be imported"),
        ("tests.stages.test_handoff:pytest", {}, "is a module; expected a function"),
        ("tests.stages.test_handoff:shout", {"volume": 3}, "takes no option 'volume'; expected one of mark"),
        ("text_to_prompt", {"template": "no place"}, r"with \{text\} in it"),
    ],
)
def test_what_cannot_be_a_handoff_is_refused(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        resolve(HandoffConfig(function=name, options=options))
