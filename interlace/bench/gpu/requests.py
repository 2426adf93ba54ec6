"""Requests of the check as arguments of each family's pipeline: random embeddings in the place of texts. Seeded."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from interlace.bench.gpu.families import GpuFamily

Arguments = dict[str, Any]
WORKLOADS = ("uniform", "mixed", "lora")
_STEPS = 6
_OWN = ("generator",)  # of each request, beside its texts


class RequestMaker:
    """Makes the requests of one family. Equal calls make equal requests, generators included."""

    def __init__(self, family: GpuFamily, device: torch.device, dtype: torch.dtype, *, tiny: bool) -> None:
        self._family, self._device, self._dtype = family, device, dtype
        self._text = family.texts(tiny=tiny)
        self.small, self.large = family.sizes(tiny=tiny)

    def plain(self, size: int, steps: int, seed: int = 0, scale: float | None = None) -> Arguments:
        """One request; without `scale` unguided, one row a forward."""
        tokens = self._text.tokens
        return {
            **self._texts(tokens, seed, ""),
            **self._guidance(scale, tokens, seed),
            "height": size,
            "width": size,
            "num_inference_steps": steps,
            "generator": torch.Generator("cpu").manual_seed(seed),
            "output_type": "pt",
        }

    def workload(self, name: str, num_requests: int) -> list[Arguments]:
        """uniform: small, equal steps and guidance. mixed: three sizes, 3 to 9 steps, guidance 1 to 7, half of them
        guided (FLUX's is distilled), texts of several lengths where the family has a mask. lora: as uniform."""
        if name != "mixed":
            return [self.plain(self.small, _STEPS, seed, scale=4.0) for seed in range(num_requests)]
        rng = random.Random(0)
        return [self._mixed(rng, seed) for seed in range(num_requests)]

    def _mixed(self, rng: random.Random, seed: int) -> Arguments:
        size = rng.choice((self.small, (self.small + self.large) // 2, self.large))
        steps, scale = rng.randint(3, 9), round(rng.uniform(1.5, 7.0), 1)
        guided = rng.random() < 0.5 or self._family.guidance == "distilled"
        request = self.plain(size, steps, seed, scale if guided else None)
        if not self._text.masked:
            return request
        tokens = rng.randint(self._text.tokens // 3, self._text.tokens)
        own = {name: value for name, value in request.items() if "prompt" not in name}
        return {**own, **self._texts(tokens, seed, ""), **self._guidance(scale if guided else None, tokens, seed)}

    def _guidance(self, scale: float | None, tokens: int, seed: int) -> Arguments:
        if self._family.guidance == "distilled":
            return {"guidance_scale": 3.5 if scale is None else scale}
        name = "true_cfg_scale" if self._family.guidance == "true_cfg" else "guidance_scale"
        if scale is None:
            return {name: 1.0}
        return {name: scale, **self._texts(tokens, seed + 10_000, "negative_")}

    def _texts(self, tokens: int, seed: int, prefix: str) -> Arguments:
        generator = torch.Generator("cpu").manual_seed(seed)
        found = {f"{prefix}prompt_embeds": self._noise(generator, tokens, self._text.width)}
        if self._text.pooled:
            found[f"{prefix}pooled_prompt_embeds" if prefix else "pooled_prompt_embeds"] = self._noise(
                generator, self._text.pooled
            )
        if self._text.masked:
            found[f"{prefix}prompt_embeds_mask"] = torch.ones(1, tokens, dtype=torch.long, device=self._device)
        return found

    def _noise(self, generator: torch.Generator, *shape: int) -> torch.Tensor:
        return torch.randn(1, *shape, generator=generator).to(self._device, self._dtype)


def static_batches(requests: Sequence[Mapping[str, Any]], most: int) -> list[list[int]]:
    """Which requests stock diffusers takes in one call: those with equal parameters, `most` at once."""
    groups: dict[object, list[int]] = {}
    for index, request in enumerate(requests):
        key = tuple((name, None if _is_text(name) else value) for name, value in sorted(request.items())
                    if name not in _OWN)  # fmt: skip
        groups.setdefault(key, []).append(index)
    return [found[at : at + most] for found in groups.values() for at in range(0, len(found), most)]


def joined(requests: Sequence[Mapping[str, Any]]) -> Arguments:
    """The arguments of one call for all: texts padded to the longest, as pipelines do with a list of prompts."""
    call = dict(requests[0])
    for name in call:
        if _is_text(name):
            call[name] = torch.cat(_padded([request[name] for request in requests]))
    call["generator"] = [request["generator"] for request in requests]
    return call


def _is_text(name: str) -> bool:
    return "prompt_embeds" in name


def _padded(values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    longest = max(value.shape[1] for value in values)
    return [
        torch.cat([value, value.new_zeros(1, longest - value.shape[1], *value.shape[2:])], dim=1) for value in values
    ]
