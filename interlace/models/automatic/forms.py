"""Quick forms of a model's parts on a CPU: the same numbers within rounding, by quicker products and fewer passes.

A form is a forward of one module's own, which looks at everything anew in every call and keeps nothing: a matrix
product by oneDNN in the place of torch's usual library (MKL took twice as long on an AMD EPYC), an activation computed
inside the product before it, and `a + b * c` in one pass. Where a part is not as diffusers made it (adapters, hooks,
quantised weights, another precision), or is traced, differentiated or compiled, its class's own forward runs.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers.models.activations import GELU
from diffusers.models.normalization import AdaLayerNormZero, AdaLayerNormZeroSingle
from diffusers.models.transformers.transformer_flux import FluxSingleTransformerBlock
from torch import Tensor, nn

from interlace.models.automatic.trial import Finding, compared

_ROWS, _TOKENS, _TEXT = 8, 40, 24  # of the forward that a form is tried on
_SMALL_PRODUCT = 2**21  # multiplications; below it oneDNN's own ten microseconds a call outweigh what it gains


@dataclass(frozen=True)
class Form:
    """How modules of exactly the class `of` run quicker; `example` makes arguments to try it with."""

    of: type[nn.Module]
    forward: Callable[..., Any]
    example: Callable[[Any], dict[str, Tensor]]
    fits: Callable[[Any], bool] = lambda module: True


def formed(module: nn.Module, form: Form) -> list[nn.Module]:
    """The parts of a module that may take a form: those whose forward is their class's."""
    return [
        part for part in module.modules()
        if type(part) is form.of and "forward" not in vars(part) and form.fits(part)
    ]  # fmt: skip


def typical(parts: Sequence[nn.Module]) -> nn.Module:
    """The first part of the shape that has the most weights in all: what a forward spends its time in."""
    weights = Counter[Any]()
    for part in parts:
        weights[_shape(part)] += sum(parameter.numel() for parameter in part.parameters())
    (shape, _), *_ = weights.most_common(1)
    return next(part for part in parts if _shape(part) == shape)


def put_on(form: Form, parts: Sequence[nn.Module]) -> None:
    """From now on these parts run in their quick form; `take_off` undoes it."""
    for part in parts:
        part.__dict__["forward"] = partial(_in_form, form.of, form.forward, part)


def take_off(module: nn.Module) -> None:
    """All parts of a module run as their classes say."""
    for part in module.modules():
        if "forward" in vars(part) and _has_form(part):
            del part.__dict__["forward"]


def try_form(form: Form, part: nn.Module) -> Finding:
    """One part in both ways."""
    try:
        with torch.no_grad():
            arguments = form.example(part)
            if not all(_is_plain(one) for one in arguments.values()):
                return Finding(False, "not tried: for float32 on a CPU only")
            return compared(lambda: part(**arguments), lambda: form.forward(part, **arguments))
    except Exception as error:
        return Finding(False, f"not tried: {type(error).__name__}")


def _in_form(of: type[nn.Module], quick: Callable[..., Any], part: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """A part's forward; where somebody gave the part another class, or its class another forward, as that says."""
    own = type(part).forward
    forward = quick if type(part) is of and own is _OWN[of] else own
    return forward(part, *args, **kwargs)


def _linear(self: nn.Linear, input: Tensor) -> Tensor:  # as torch names it
    if input.dim() > 1 and input.numel() * self.out_features >= _SMALL_PRODUCT and _is_plain_product(self, input):
        return _product(self, input, "none")
    return nn.Linear.forward(self, input)


def _gelu(self: GELU, hidden_states: Tensor) -> Tensor:
    if self.approximate == "tanh" and _is_fusible(self.proj, hidden_states):
        return _product(self.proj, hidden_states, "gelu", "tanh")
    return GELU.forward(self, hidden_states)


def _norm_zero(
    self: AdaLayerNormZero,
    x: Tensor,
    timestep: Tensor | None = None,
    class_labels: Tensor | None = None,
    hidden_dtype: torch.dtype | None = None,
    emb: Tensor | None = None,
) -> tuple[Tensor, ...]:
    if emb is None or self.emb is not None or not _is_plain(x) or not _is_plain(emb):
        return AdaLayerNormZero.forward(self, x, timestep, class_labels, hidden_dtype, emb)
    shift, scale, *others = self.linear(self.silu(emb)).chunk(6, dim=1)
    return _modulated(self.norm(x), shift, scale), *others


def _norm_zero_single(self: AdaLayerNormZeroSingle, x: Tensor, emb: Tensor | None = None) -> tuple[Tensor, ...]:
    if emb is None or not _is_plain(x) or not _is_plain(emb):
        return AdaLayerNormZeroSingle.forward(self, x, emb)
    shift, scale, gate = self.linear(self.silu(emb)).chunk(3, dim=1)
    return _modulated(self.norm(x), shift, scale), gate


def _single_block(
    self: FluxSingleTransformerBlock,
    hidden_states: Tensor,
    encoder_hidden_states: Tensor,
    temb: Tensor,
    image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    joint_attention_kwargs: dict[str, Any] | None = None,
) -> tuple[Tensor, Tensor]:
    """As diffusers' own, but for where the activation is computed and how the gate is added."""
    if not (_is_fusible(self.proj_mlp, hidden_states) and _is_bare(self.act_mlp) and _is_tanh(self.act_mlp)):
        own = FluxSingleTransformerBlock.forward
        return own(self, hidden_states, encoder_hidden_states, temb, image_rotary_emb, joint_attention_kwargs)
    num_text = encoder_hidden_states.shape[1]
    residual = torch.cat([encoder_hidden_states, hidden_states], dim=1)
    normed, gate = self.norm(residual, emb=temb)
    hidden = _product(self.proj_mlp, normed, "gelu", "tanh")
    attended = self.attn(hidden_states=normed, image_rotary_emb=image_rotary_emb, **(joint_attention_kwargs or {}))
    projected = self.proj_out(torch.cat([attended, hidden], dim=2))
    output = torch.addcmul(residual, gate.unsqueeze(1), projected)
    return output[:, :num_text], output[:, num_text:]


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(shift[:, None], x, 1 + scale[:, None])


def _product(linear: nn.Linear, x: Tensor, activation: str, kind: str = "") -> Tensor:
    """A linear layer's output and its activation, by oneDNN in one operation."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, linear.weight, linear.bias, activation, [], kind)
    return product


def _is_plain(x: Tensor) -> bool:
    """float32 on a CPU, and nobody watches how it is computed."""
    return (
        x.dtype is torch.float32 and x.is_cpu and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()
    )  # fmt: skip


def _is_plain_product(linear: nn.Linear, x: Tensor) -> bool:
    """As `_is_plain`, with weights that are nobody else's. oneDNN reads a bias as if its numbers lay side by side."""
    if type(linear) is not nn.Linear or nn.Linear.forward is not _OWN[nn.Linear] or not _is_plain(x):
        return False
    weight, bias = linear.weight, linear.bias
    own = type(weight) is nn.Parameter and weight.dtype is torch.float32 and weight.is_cpu
    return own and (
        bias is None or (type(bias) is nn.Parameter and bias.dtype is torch.float32 and bias.is_contiguous())
    )


def _is_bare(module: nn.Module) -> bool:
    """One of torch's own classes, without hooks and with the forward of its class, or a quick form of it."""
    hooks = module._forward_hooks or module._forward_pre_hooks
    own = "forward" not in vars(module) or _has_form(module)
    return own and not hooks and type(module).__module__.startswith("torch.nn.modules.")


def _has_form(module: nn.Module) -> bool:
    return getattr(module.forward, "func", None) is _in_form


def _is_fusible(linear: Any, x: Tensor) -> bool:
    return _is_plain_product(linear, x) and _is_bare(linear)


def _is_tanh(activation: nn.Module) -> bool:
    return isinstance(activation, nn.GELU) and activation.approximate == "tanh"


def _shape(part: nn.Module) -> tuple[torch.Size, ...]:
    return tuple(parameter.shape for parameter in part.parameters())


def _like(weight: Tensor, *shape: int) -> Tensor:
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return numbers.to(weight.device, weight.dtype)


def _block_example(block: FluxSingleTransformerBlock) -> dict[str, Tensor]:
    weight, width = block.proj_mlp.weight, block.proj_mlp.in_features
    return {
        "hidden_states": _like(weight, _ROWS, _TOKENS - _TEXT, width),
        "encoder_hidden_states": _like(weight, _ROWS, _TEXT, width),
        "temb": _like(weight, _ROWS, block.norm.linear.in_features),
    }


def _norm_example(norm: AdaLayerNormZero | AdaLayerNormZeroSingle) -> dict[str, Tensor]:
    weight = norm.linear.weight
    emb, width = norm.linear.in_features, norm.norm.normalized_shape[0]
    return {"x": _like(weight, _ROWS, _TOKENS, width), "emb": _like(weight, _ROWS, emb)}


FORMS = (
    Form(
        nn.Linear, _linear,
        lambda linear: {"input": _like(linear.weight, _ROWS, _TOKENS, linear.in_features)},
        lambda linear: _ROWS * _TOKENS * linear.weight.numel() >= _SMALL_PRODUCT,
    ),
    Form(
        GELU, _gelu,
        lambda gelu: {"hidden_states": _like(gelu.proj.weight, _ROWS, _TOKENS, gelu.proj.in_features)},
        lambda gelu: gelu.approximate == "tanh",
    ),
    Form(AdaLayerNormZero, _norm_zero, _norm_example, lambda norm: norm.emb is None),
    Form(AdaLayerNormZeroSingle, _norm_zero_single, _norm_example),
    Form(
        FluxSingleTransformerBlock, _single_block, _block_example,
        lambda block: _is_tanh(block.act_mlp),
    ),
)  # fmt: skip
_OWN = {form.of: form.of.forward for form in FORMS}
