"""LoHa and LoKr files with kohya's names (LyCORIS), as peft's layers. diffusers' own pipelines read LoKr of a few
families only, under other names, and no LoHa.

Knows names of tensors and of modules, and nothing of requests.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.loaders.lora_conversion_utils import _bake_lokr_alpha_, _maybe_map_sgm_blocks_to_diffusers
from diffusers.utils.peft_utils import _create_lokr_config
from peft import LoHaConfig, PeftConfig, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer

_COMPONENTS = {
    "lora_unet_": ("unet", "transformer"),
    "lora_te_": ("text_encoder",),
    "lora_te1_": ("text_encoder",),
    "lora_te2_": ("text_encoder_2",),
}
_KINDS = (torch.nn.Linear, torch.nn.Conv2d, BaseTunerLayer)
_TENSOR = re.compile(r"\.(alpha$|hada_.*|lokr_.*)")
Tensors = dict[str, torch.Tensor]


def is_lycoris(names: Iterable[str]) -> bool:
    """Whether a file's tensors, by their names, are such."""
    names = list(names)
    return any(".hada_" in name or (".lokr_" in name and name.startswith(tuple(_COMPONENTS))) for name in names)


def load_lycoris(pipeline: DiffusionPipeline, tensors: Mapping[str, torch.Tensor], adapter: str) -> None:
    """Put an adapter of such tensors beside the weights. Raises `ValueError` for what there is no layer for in peft."""
    for part in ("dora_scale", "diff", "diff_b"):
        if any(name.endswith(f".{part}") for name in tensors):
            raise ValueError(f"it has tensors of the name {part}, which are not supported in a LoHa or LoKr file")
    own = dict(tensors)
    if any("input_blocks" in name or "output_blocks" in name for name in own):  # SDXL's original names
        own = _maybe_map_sgm_blocks_to_diffusers(own, pipeline.unet.config)
    by_component: dict[str, Tensors] = defaultdict(dict)
    for name, value in own.items():
        prefix = next((one for one in _COMPONENTS if name.startswith(one)), None)
        component = prefix and next((one for one in _COMPONENTS[prefix] if getattr(pipeline, one, None)), None)
        if prefix is not None and component is not None:
            by_component[component][name.removeprefix(prefix)] = value
    for component, named in by_component.items():
        module = getattr(pipeline, component)
        if placed := _placed(module, named):
            _inject(module, placed, adapter)


def _placed(module: torch.nn.Module, named: Tensors) -> Tensors:
    """The tensors by their modules' own names; what has no module is left out."""
    places = {
        _flat(name): name
        for name, part in module.named_modules()
        if isinstance(part, _KINDS) and "base_layer" not in name and ".lora_" not in name
    }
    found: Tensors = {}
    for name, value in named.items():
        layer, _, rest = name.partition(".")
        if layer in places:
            found[f"{places[layer]}.{rest}"] = value
    return found


def _flat(name: str) -> str:
    """As kohya writes a module's name; newer text encoders of transformers lack the prefix that his have."""
    name = name if not name.startswith("encoder.layers") else f"text_model.{name}"
    return name.replace(".", "_")


def _inject(module: torch.nn.Module, tensors: Tensors, adapter: str) -> None:
    for kind, config_of in ((".hada_", _loha), (".lokr_", _lokr)):
        layers = {name.partition(kind)[0] for name in tensors if kind in name}
        own = {name: value for name, value in tensors.items() if _TENSOR.sub("", name) in layers}
        if not own:
            continue
        config = config_of(own)
        inject_adapter_in_model(config, module, adapter, state_dict=own)
        missing = set_peft_model_state_dict(module, own, adapter)
        if unexpected := getattr(missing, "unexpected_keys", None):
            raise ValueError(f"{unexpected[0]} has no place in peft's layers")
        for part in module.modules():
            if isinstance(part, BaseTunerLayer):
                part.train(module.training).requires_grad_(False)
        module._hf_peft_config_loaded = True  # type: ignore[assignment]  # diffusers' and transformers' own mark


def _loha(tensors: Tensors) -> PeftConfig:
    """The settings that give peft's layers the sizes of these tensors, which lose their alphas to one of them."""
    ranks = {name.partition(".hada_w1_b")[0]: len(value) for name, value in tensors.items() if ".hada_w1_b" in name}
    for layer, rank in ranks.items():
        alpha = tensors.pop(f"{layer}.alpha", None)
        if alpha is not None:
            tensors[f"{layer}.hada_w1_b"] = tensors[f"{layer}.hada_w1_b"] * (float(alpha) / rank)
    cut = any(".hada_t1" in name for name in tensors)  # convolutions that were decomposed along their windows, too
    return LoHaConfig(**_of_ranks(ranks), use_effective_conv2d=cut)


def _lokr(tensors: Tensors) -> PeftConfig:
    _bake_lokr_alpha_(tensors)
    for name, value in tensors.items():
        if value.ndim > 2:
            raise ValueError(f"{name} has {value.ndim} dimensions; LoKr of convolutions is not supported")
    config: PeftConfig = _create_lokr_config(tensors, None)
    return config


def _of_ranks(ranks: Mapping[str, int]) -> dict[str, Any]:
    """Every layer with its rank, scaled by 1."""
    most = Counter(ranks.values()).most_common(1)[0][0]
    others = {layer: rank for layer, rank in ranks.items() if rank != most}
    return {
        "r": most,
        "alpha": most,
        "rank_pattern": others,
        "alpha_pattern": dict(others),
        "target_modules": sorted(ranks),
    }
