"""A causal language model with its tokenizer: texts as tokens, tokens as hidden states. Knows nothing of requests."""

import secrets
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from interlace.engine.accelerator import default_device
from interlace.engine.threads import release_team
from interlace.errors import InvalidRequestError, ModelLoadError
from interlace.models.loader import parse_dtype
from interlace.models.places import model_folder
from interlace.request import ARSamplingParams
from interlace.stages.language.config import AREngineArgs

_DEFAULT_TOKENS = 256
_UNKNOWN_LENGTH = 2048


@dataclass(frozen=True)
class Draw:
    """How one request's tokens are chosen, with the model's own defaults filled in. A negative seed: greedy."""

    temperature: float
    top_k: int
    top_p: float
    seed: int


class LanguageModel:
    """Loaded and ready. `max_length` is in tokens, prompt and answer together."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, args: AREngineArgs) -> None:
        self.model, self.tokenizer, self.args = model, tokenizer, args
        config = model.config.get_text_config()
        longest = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
        self.max_length = min(args.max_model_len or 2**31, int(longest or _UNKNOWN_LENGTH))

    @classmethod
    def load(cls, name: str, args: AREngineArgs, device: str | None) -> Self:
        """A directory, a hub id or a built-in name. Raises `ModelLoadError`."""
        source = str(model_folder(name) or name)
        device = device or default_device()
        dtype = parse_dtype(args.dtype) or (torch.float32 if device == "cpu" else torch.bfloat16)
        options = {"revision": args.revision, "local_files_only": args.local_files_only}
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, **options)
            model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, **options)
        except Exception as error:
            hint = "expected a directory or hub id of a causal language model, or 'demo-expand'"
            raise ModelLoadError(f"cannot load language model {name!r}: {error}; {hint}") from error
        model = model.to(device).eval()
        release_team()
        return cls(model, tokenizer, args)

    def tokens(self, text: str) -> list[int]:
        """A prompt as the model wants it: the template of the stage, then the model's own for chats."""
        asked = self.args.prompt_template.replace("{prompt}", text)
        system = self.args.system_prompt
        chat = self.args.chat_template
        if not (chat if chat is not None else self.tokenizer.chat_template is not None):
            return list(self.tokenizer(asked if system is None else f"{system}\n{asked}").input_ids)
        messages = [] if system is None else [{"role": "system", "content": system}]
        messages.append({"role": "user", "content": asked})
        given = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return list(self.tokenizer(given, add_special_tokens=False).input_ids)

    def max_tokens(self, num_prompt_tokens: int, wanted: int | None) -> int:
        """How many tokens an answer may have. Raises `InvalidRequestError` where there is no room."""
        room = self.max_length - num_prompt_tokens
        if room < 1:
            raise InvalidRequestError(
                f"the prompt has {num_prompt_tokens} tokens; expected at most {self.max_length - 1}: make it shorter",
                "prompt",
            )
        if wanted is not None and wanted > room:
            raise InvalidRequestError(
                f"max_tokens is {wanted}; expected at most {room} after a prompt of {num_prompt_tokens} tokens "
                f"(prompt and answer may have {self.max_length})",
                "max_tokens",
            )
        return wanted or min(self.model.generation_config.max_new_tokens or _DEFAULT_TOKENS, room)

    def draw(self, params: ARSamplingParams) -> Draw:
        """The request's choice of tokens; what it leaves open is the model's generation_config."""
        usual = self.model.generation_config
        sampled = bool(usual.do_sample)
        temperature = params.temperature
        if temperature is None:
            temperature = float(usual.temperature or 1.0) if sampled else 0.0
        top_k, top_p = params.top_k, params.top_p
        if sampled:
            top_k = usual.top_k if top_k is None else top_k
            top_p = usual.top_p if top_p is None else top_p
        seed = params.seed if params.seed is not None else secrets.randbelow(2**32)
        return Draw(temperature or 1.0, int(top_k or 0), float(top_p or 1.0), seed if temperature else -1)

    @torch.no_grad()
    def hidden_states(self, tokens: list[int], layer: int) -> Tensor:
        """One forward over a whole text: what `layer` makes of it [1, tokens, channels]."""
        ids = torch.tensor([tokens], device=self.model.device)
        layers = self.model(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
        if not -len(layers) <= layer < len(layers):
            raise InvalidRequestError(
                f"hidden_layer is {layer}; expected {-len(layers)} to {len(layers) - 1}", "hidden_layer"
            )
        states: Tensor = layers[layer]
        return states

    def describe(self) -> dict[str, Any]:
        return {
            "class": type(self.model).__name__,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": str(self.model.device),
            "max_length": self.max_length,
        }
