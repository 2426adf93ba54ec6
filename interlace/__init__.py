"""Interlace runs any diffusers pipeline, unmodified, for many requests at once."""

from typing import TYPE_CHECKING, Any

from interlace.config import EngineConfig
from interlace.request import Metrics, Output, Progress, Request, SamplingParams

if TYPE_CHECKING:
    from interlace.engine.engine import Engine

__all__ = ["Engine", "EngineConfig", "Metrics", "Output", "Progress", "Request", "SamplingParams"]
__version__ = "0.2.0"

_LAZY = {
    "Engine": "interlace.engine.engine",
    "Omni": "interlace.omni",
    "AsyncOmni": "interlace.async_omni",
    "OmniLLM": "interlace.omni_llm",
    "AsyncOmniLLM": "interlace.omni_llm",
    "ARSamplingParams": "interlace.request",
    "DiTConfig": "interlace.stages.config",
    "HandoffConfig": "interlace.stages.config",
    "OmniStageConfig": "interlace.stages.config",
    "create_ar_stage_config": "interlace.stages.config",
    "create_dit_stage_config": "interlace.stages.config",
}


def __getattr__(name: str) -> Any:
    """Names that need torch are imported when first used, so that `interlace --help` is quick."""
    if name not in _LAZY:
        raise AttributeError(f"module 'interlace' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)
