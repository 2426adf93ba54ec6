"""Weights in fewer bits, by name: torchao, bitsandbytes and quanto, through diffusers' own configurations.

`--quantize METHOD:KIND[,COMPONENT...]`. What a name needs (a package, a GPU) is checked before anything is loaded.
"""

import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline, PipelineQuantizationConfig

from interlace.errors import InvalidRequestError
from interlace.models.places import ModelIndex

DENOISERS = ("transformer", "transformer_2", "unet", "prior", "decoder")
_TORCHAO = {
    "int8wo": "Int8WeightOnlyConfig",
    "int8dq": "Int8DynamicActivationInt8WeightConfig",
    "int4wo": "Int4WeightOnlyConfig",
    "float8wo": "Float8WeightOnlyConfig",
    "float8dq": "Float8DynamicActivationFloat8WeightConfig",
}
_BITSANDBYTES: dict[str, Mapping[str, Any]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "int8": {"load_in_8bit": True},
}
_QUANTO = ("int8", "int4", "int2", "float8")
_KINDS: dict[str, tuple[str, ...]] = {
    "torchao": tuple(_TORCHAO),
    "bitsandbytes": tuple(_BITSANDBYTES),
    "quanto": _QUANTO,
}
_PACKAGES = {"torchao": "torchao", "bitsandbytes": "bitsandbytes", "quanto": "optimum.quanto"}
_ON_GPU_ONLY = frozenset(
    {"torchao:int4wo", "torchao:float8dq", "bitsandbytes:nf4", "bitsandbytes:fp4", "bitsandbytes:int8"}
)


@dataclass(frozen=True)
class Quantization:
    """One method for some components; none named: the denoisers."""

    method: str
    kind: str
    components: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Quantization":
        """`torchao:int8wo,transformer` and the like. Raises `InvalidRequestError` for what is not known."""
        name, *components = [part.strip() for part in text.split(",")]
        method, _, kind = name.partition(":")
        method = {"bnb": "bitsandbytes", "ao": "torchao"}.get(method, method)
        if method == "gguf":
            how = "weights in GGUF are a file of their own; give --component transformer=FILE.gguf"
            raise InvalidRequestError(f"quantize is {text!r}: {how}", "quantize")
        if kind not in _KINDS.get(method, ()):
            known = ", ".join(f"{method}:{kind}" for method, kinds in _KINDS.items() for kind in kinds)
            raise InvalidRequestError(
                f"quantize is {text!r}; expected one of {known}, with ,COMPONENT behind", "quantize"
            )
        return cls(method, kind, tuple(part for part in components if part))

    def check(self, device: str) -> None:
        """Raises `InvalidRequestError` where the package is missing, or a GPU that this needs."""
        package = _PACKAGES[self.method]
        try:
            found = importlib.util.find_spec(package) is not None
        except ModuleNotFoundError:
            found = False
        if not found:
            install = package.replace(".", "-")
            text = f"quantize {self.method}:{self.kind} needs {install}; pip install {install}"
            raise InvalidRequestError(text, "quantize")
        if f"{self.method}:{self.kind}" in _ON_GPU_ONLY and device.startswith("cpu"):
            text = f"quantize {self.method}:{self.kind} needs a GPU, and the device is {device}"
            raise InvalidRequestError(f"{text}; torchao:int8wo works on a CPU", "quantize")

    def apply(self, module: torch.nn.Module) -> None:
        """Quantise the linear layers of a module that is loaded: torchao and quanto can."""
        if self.method == "torchao":
            from torchao import quantization

            quantization.quantize_(module, getattr(quantization, _TORCHAO[self.kind])())
        else:
            from optimum import quanto

            quanto.quantize(module, weights=getattr(quanto, f"q{self.kind}"))
            quanto.freeze(module)

    def _config(self, of_transformers: bool, dtype: torch.dtype) -> Any:
        """diffusers' configuration, or that of transformers for its models."""
        import diffusers
        import transformers

        library = transformers if of_transformers else diffusers
        if self.method == "torchao":
            from torchao import quantization

            return library.TorchAoConfig(getattr(quantization, _TORCHAO[self.kind])())
        if self.method == "bitsandbytes":
            options = dict(_BITSANDBYTES[self.kind])
            if "load_in_4bit" in options:
                options["bnb_4bit_compute_dtype"] = dtype
            return library.BitsAndBytesConfig(**options)
        names = {"weights": self.kind} if of_transformers else {"weights_dtype": self.kind}
        return library.QuantoConfig(**names)


def pipeline_config(
    wanted: Iterable[Quantization], index: ModelIndex, dtype: torch.dtype, device: str
) -> PipelineQuantizationConfig | None:
    """What `from_pretrained` of the pipeline that `index` describes is to be told; None for no wishes.

    Raises `InvalidRequestError` for a component that the pipeline lacks, and for what can't be done here.
    """
    mapping: dict[str, Any] = {}
    for one in wanted:
        one.check(device)
        own = [name for name in DENOISERS if name in index.components]
        for name in one.components or own:
            if name not in index.components:
                known = ", ".join(index.components)
                raise InvalidRequestError(
                    f"{index.pipeline_class} has no component {name!r}; it has {known}", "quantize"
                )
            mapping[name] = one._config(index.components[name][0] == "transformers", dtype)
    return PipelineQuantizationConfig(quant_mapping=mapping) if mapping else None


def check_for_file(name: str, wanted: Iterable[Quantization], device: str) -> None:
    """Raises `InvalidRequestError` where a checkpoint in one file can't be quantised so."""
    for one in wanted:
        one.check(device)
        if one.method == "bitsandbytes" or name.lower().endswith(".gguf"):
            is_gguf = name.lower().endswith(".gguf")
            why = "is quantised as it is" if is_gguf else "is one file, which bitsandbytes can't read"
            how = "use torchao or quanto, or save its pipeline with save_pretrained first"
            raise InvalidRequestError(f"quantize {one.method}:{one.kind}: {name} {why}; {how}", "quantize")


def quantize_in_place(pipeline: DiffusionPipeline, wanted: Iterable[Quantization]) -> None:
    """Linear layers of a pipeline that is loaded. Raises `InvalidRequestError` for a component that it lacks."""
    for one in wanted:
        own = [name for name in DENOISERS if isinstance(getattr(pipeline, name, None), torch.nn.Module)]
        for name in one.components or own:
            module = getattr(pipeline, name, None)
            if not isinstance(module, torch.nn.Module):
                known = ", ".join(key for key, part in pipeline.components.items() if isinstance(part, torch.nn.Module))
                text = f"{type(pipeline).__name__} has no component {name!r} to quantize; it has {known}"
                raise InvalidRequestError(text, "quantize")
            one.apply(module)
