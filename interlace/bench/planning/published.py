"""What others published of seconds a picture on an H100, as profiles for `interlace bench simulate --profile`.

A step is taken as a picture's seconds by its steps, so encoding and decoding are in it. Nobody published batches of
several: more rows are taken to cost in proportion, which is nearly so at 1024 pixels and makes plans cautious.
"""

from dataclasses import dataclass

from interlace.engine.policy.cost import CostModel

HARDWARE = "one H100, measured by others"


@dataclass(frozen=True)
class Published:
    """Seconds of one 1024x1024 picture alone on one H100, in bfloat16 (SDXL: float16)."""

    seconds: float
    steps: int
    source: str

    def cost(self) -> CostModel:
        """A denoiser of which one row is known."""
        cost = CostModel(settled=True)
        cost.know("transformer published: 1024x1024", 1, self.seconds / self.steps)
        return cost


_XDIT = "https://github.com/xdit-project/xDiT/issues/378 (xDiT's docs/performance/flux.md)"
_ORT = "https://github.com/microsoft/onnxruntime/pull/22986 (torch 2.5.1, H100 80GB HBM3)"
_TRT = "https://huggingface.co/stabilityai/stable-diffusion-xl-1.0-tensorrt"

PUBLISHED: dict[str, Published] = {
    "flux.1-dev-h100": Published(6.71, 28, _XDIT),
    "flux.1-dev-h100-compiled": Published(4.30, 28, _XDIT),
    "sd3.5-large-h100": Published(11.615, 50, _ORT),
    "sd3.5-large-h100-compiled": Published(7.466, 50, _ORT),
    "sdxl-h100": Published(2.496, 30, _TRT),
    "sdxl-h100-tensorrt": Published(1.471, 30, _TRT),
}
