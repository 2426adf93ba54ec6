"""transformers' continuous batching manager with sampling that belongs to each request alone."""

import logging
import threading
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import ContinuousBatchingConfig, GenerationConfig, LogitsProcessorList
from transformers.generation.continuous_batching import ContinuousBatchingManager
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessor
from transformers.generation.continuous_batching.requests import FutureRequestState
from transformers.generation.logits_process import SuppressTokensLogitsProcessor

from interlace.engine.threads import release_team
from interlace.stages.language.sampling import gumbel, noise_key, warp
from interlace.stages.language.sizes import bytes_per_token

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ROW_WISE = (SuppressTokensLogitsProcessor,)  # look at one row of scores and nothing else
_LAYERS = ("full_attention", "sliding_attention", "chunked_attention")
_PAGE = 32  # tokens
_PREFILL = 256  # tokens in one forward


class _Setting(ContinuousBatchingLogitsProcessor):
    """Carries one number a request to the device; `Choose`, which comes last, uses them all."""

    ignored_kwargs = ()

    def __init__(self, name: str, default: float, dtype: torch.dtype) -> None:
        self.name, self.default, self.dtype = name, default, dtype
        self.supported_kwargs = {name: float if dtype is torch.float32 else int}
        self.values = torch.empty(0)

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        int32_tensor.copy_(self._packed([self.default] * int32_tensor.numel()))

    def prepare_tensor_args(self, requests_with_new_token: list[FutureRequestState]) -> Tensor:
        return self._packed([self._value(request.state) for request in requests_with_new_token])

    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:
        self.values = tensor_arg[: scores.shape[0]].view(self.dtype)
        return scores

    def _value(self, state: Any) -> float:
        return state.logit_processor_kwargs.get(self.name, self.default)

    def _packed(self, values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=self.dtype).view(torch.int32)


class _Choose(_Setting):
    """Warps the scores and adds the noise of each request's seed and position, so that the largest is the sample."""

    def __init__(self, temperature: _Setting, top_k: _Setting, top_p: _Setting) -> None:
        super().__init__("seed", -1, torch.int32)
        self.settings = (temperature, top_k, top_p)

    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:
        keys = tensor_arg[: scores.shape[0]].long() & 0xFFFFFFFF
        warped = warp(scores, *(setting.values for setting in self.settings))
        return warped + gumbel(keys, scores.shape[-1])

    def _value(self, state: Any) -> float:
        seed = int(super()._value(state))
        if seed < 0:
            return 0
        key = noise_key(seed, len(state.initial_tokens) + len(state.generated_tokens))
        return key - 2**32 if key >= 2**31 else key


def why_not(model: "PreTrainedModel") -> str | None:
    """Why a model can't be batched continuously; None if it can."""
    if not hasattr(model, "init_continuous_batching") or not getattr(model, "_supports_sdpa", False):
        return f"{type(model).__name__} has no attention that reads paged caches"
    if any(kind not in _LAYERS for kind in getattr(model.config.get_text_config(), "layer_types", None) or ()):
        return f"{type(model).__name__} has layers without a paged cache"
    processors = model._get_logits_processor(_greedy(model))
    strange = [type(one).__name__ for one in processors if not isinstance(one, _ROW_WISE)]
    return f"its generation_config asks for {', '.join(strange)}" if strange else None


def open_manager(
    model: "PreTrainedModel", max_num_seqs: int, kv_cache_gib: float, max_length: int
) -> tuple[ContinuousBatchingManager, int]:
    """A started manager, and how many tokens its cache holds.

    Its requests take `temperature`, `top_k`, `top_p` and `seed` (below 0: greedy).
    """
    tokens = _cache_tokens(model, kv_cache_gib, max_num_seqs * max_length)
    for name in ("transformers", "ContinuousBatchingLogger"):
        logging.getLogger(name).setLevel(logging.ERROR)
    manager = model.init_continuous_batching(
        _greedy(model),
        ContinuousBatchingConfig(
            page_size=_PAGE,
            num_blocks=tokens // _PAGE,
            max_batch_tokens=max(_PREFILL, max_num_seqs),
            max_requests_per_batch=max_num_seqs,
            per_request_processors=True,
            use_async_batching=False,  # the position that the noise is counted by must be the true one
        ),
    )
    _own_sampling(manager, model)
    manager._wake_up_loop = _Rest()
    manager.start()
    return manager, tokens


class _Rest(threading.Event):
    """What the manager's thread waits for when it has nothing to do."""

    def wait(self, timeout: float | None = None) -> bool:
        release_team()
        return super().wait(timeout)


def _greedy(model: Any) -> GenerationConfig:
    """The model's own settings; the largest score is taken, once the noise is in it."""
    plain = {"do_sample": False, "temperature": None, "top_k": None, "top_p": None, "max_length": None}
    return GenerationConfig.from_dict({**model.generation_config.to_dict(), **plain})


def _cache_tokens(model: Any, gib: float, enough: int) -> int:
    """How many tokens a cache of so many GiB holds, in whole pages; never more than `enough` and one page."""
    each = bytes_per_token(model.config.get_text_config(), model.dtype)
    pages = min(int(gib * 2**30) // each // _PAGE, enough // _PAGE + 1)
    return max(pages, 2) * _PAGE


def _own_sampling(manager: ContinuousBatchingManager, model: Any) -> None:
    settings = (
        _Setting("temperature", 1.0, torch.float32),
        _Setting("top_k", 0, torch.int32),
        _Setting("top_p", 1.0, torch.float32),
    )
    own = [*settings, _Choose(*settings)]
    processors = manager.logit_processor
    kept = [one for one in model._get_logits_processor(_greedy(model)) if isinstance(one, _ROW_WISE)]
    processors.logits_processor = LogitsProcessorList([*kept, *own])
    processors.tensors_required = len(own)
    processors._retrieve_processors_kwargs()
    processors.do_processing = True
