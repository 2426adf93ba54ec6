"""From one stage's output to the next stage's prompt. A handoff is a function; these are the built-in ones.

A handoff takes what a request has come to (`Handover`) and returns a prompt as `Omni.generate` takes it. One's own is
named `module:function`; its options in a deploy file become keyword arguments.
"""

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from interlace.errors import InvalidRequestError, RequestError
from interlace.request import Output
from interlace.stages.config import HandoffConfig
from interlace.stages.language.config import check_template

Prompt = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Handover:
    """What a handoff knows: the stage before's output, this stage's own part of the request, and all before it."""

    output: Output
    prompt: Prompt  # this stage's: the user's prompt, with what the request says for this stage alone
    user_prompt: Prompt  # as the user gave it
    outputs: tuple[Output, ...]  # of every stage so far


HandoffFunction = Callable[[Handover], Prompt]


def text_to_prompt(
    handover: Handover, *, template: str = "{text}", max_chars: int | None = None, fallback: bool = True
) -> Prompt:
    """What a language model wrote becomes the prompt, in a template (`{text}`, `{prompt}`: the user's own).

    White space around it goes; beyond `max_chars` it ends at a word. An empty text gives the user's own prompt, or an
    error without `fallback`.
    """
    check_template("template", template, "text")
    text = " ".join((handover.output.text or "").split())
    own = str(handover.user_prompt.get("prompt") or "")
    if not text:
        if not fallback:
            raise RequestError("the language model wrote nothing; expected a prompt (or fallback: true)")
        return {**handover.prompt, "prompt": own}
    if max_chars is not None and len(text) > max_chars:
        text = text[: max_chars + 1].rsplit(" ", 1)[0][:max_chars]
    return {**handover.prompt, "prompt": template.replace("{prompt}", own).replace("{text}", text)}


def hidden_states_to_prompt_embeds(
    handover: Handover, *, argument: str = "prompt_embeds", mask_argument: str | None = None
) -> Prompt:
    """A language model's hidden states [1, tokens, channels] become an argument of the pipeline in the prompt's place.

    `mask_argument` names the pipeline's argument for their attention mask, where it takes one.
    """
    hidden = handover.output.hidden_states
    if hidden is None:
        raise RequestError("the stage before handed out no hidden states; set hidden_layer in its sampling parameters")
    extra = {**handover.prompt.get("extra", {}), argument: hidden}
    if mask_argument is not None:
        extra[mask_argument] = torch.ones(hidden.shape[:2], dtype=torch.long, device=hidden.device)
    return {**{name: value for name, value in handover.prompt.items() if name != "prompt"}, "extra": extra}


def image_to_image(handover: Handover, *, prompt: str | None = None, argument: str = "image") -> Prompt:
    """The picture that was drawn conditions the next stage: an edit, a refinement.

    The instruction is what the request says for this stage, else `prompt` (`{prompt}`: the user's own), else the
    user's own prompt.
    """
    images = handover.output.images
    if not images:
        raise RequestError("the stage before drew no image; expected one to go on with")
    own = handover.user_prompt.get("prompt")
    instruction = handover.prompt.get("prompt")
    if prompt is not None and instruction == own:
        instruction = prompt.replace("{prompt}", str(own or ""))
    media = {**handover.prompt.get("multi_modal_data", {}), argument: images[0]}
    return {**handover.prompt, "prompt": instruction, "multi_modal_data": media}


BUILT_IN: Mapping[str, Callable[..., Prompt]] = {
    "text_to_prompt": text_to_prompt,
    "hidden_states_to_prompt_embeds": hidden_states_to_prompt_embeds,
    "image_to_image": image_to_image,
}


def resolve(config: HandoffConfig) -> HandoffFunction:
    """The function that a config names, with its options. Raises `InvalidRequestError` where they don't fit."""
    function = BUILT_IN.get(config.function) or _imported(config.function)
    parameters = list(inspect.signature(function).parameters.values())
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    known = [p.name for p in parameters[1:]]
    for name in config.options:
        if name not in known and not takes_any:
            raise InvalidRequestError(
                f"handoff {config.function} takes no option {name!r}; expected one of {', '.join(known) or 'none'}",
                name,
            )
    if config.function == "text_to_prompt":
        check_template("template", config.options.get("template", "{text}"), "text")
    return functools.partial(function, **config.options)


def _imported(name: str) -> Callable[..., Prompt]:
    module, colon, function = name.partition(":")
    if not colon:
        raise InvalidRequestError(f"handoff is {name!r}; expected {', '.join(BUILT_IN)} or module:function", "handoff")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise InvalidRequestError(f"handoff {name!r} can't be imported: {error}", "handoff") from error
    if not callable(found):
        raise InvalidRequestError(f"handoff {name!r} is a {type(found).__name__}; expected a function", "handoff")
    return found
