"""Which pipeline of diffusers runs a ControlNet or a T2I-Adapter with a model: one line for each that there is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ControlFamily:
    """For one kind of pipeline: the class of its ControlNets, and the pipeline that runs them; the same of adapters,
    and of ControlNets of several modes, where these have a class of their own."""

    controlnet: str
    with_controlnet: str
    adapter: str | None = None
    with_adapter: str | None = None
    union: str | None = None
    with_union: str | None = None


FAMILIES: dict[str, ControlFamily] = {
    "StableDiffusionPipeline": ControlFamily(
        "ControlNetModel", "StableDiffusionControlNetPipeline", "T2IAdapter", "StableDiffusionAdapterPipeline"
    ),
    "StableDiffusionImg2ImgPipeline": ControlFamily("ControlNetModel", "StableDiffusionControlNetImg2ImgPipeline"),
    "StableDiffusionInpaintPipeline": ControlFamily("ControlNetModel", "StableDiffusionControlNetInpaintPipeline"),
    "StableDiffusionXLPipeline": ControlFamily(
        "ControlNetModel",
        "StableDiffusionXLControlNetPipeline",
        "T2IAdapter",
        "StableDiffusionXLAdapterPipeline",
        "ControlNetUnionModel",
        "StableDiffusionXLControlNetUnionPipeline",
    ),
    "StableDiffusionXLImg2ImgPipeline": ControlFamily(
        "ControlNetModel",
        "StableDiffusionXLControlNetImg2ImgPipeline",
        union="ControlNetUnionModel",
        with_union="StableDiffusionXLControlNetUnionImg2ImgPipeline",
    ),
    "StableDiffusionXLInpaintPipeline": ControlFamily(
        "ControlNetModel",
        "StableDiffusionXLControlNetInpaintPipeline",
        union="ControlNetUnionModel",
        with_union="StableDiffusionXLControlNetUnionInpaintPipeline",
    ),
    "StableDiffusion3Pipeline": ControlFamily("SD3ControlNetModel", "StableDiffusion3ControlNetPipeline"),
    "FluxPipeline": ControlFamily("FluxControlNetModel", "FluxControlNetPipeline"),
    "FluxImg2ImgPipeline": ControlFamily("FluxControlNetModel", "FluxControlNetImg2ImgPipeline"),
    "FluxInpaintPipeline": ControlFamily("FluxControlNetModel", "FluxControlNetInpaintPipeline"),
    "QwenImagePipeline": ControlFamily("QwenImageControlNetModel", "QwenImageControlNetPipeline"),
}
