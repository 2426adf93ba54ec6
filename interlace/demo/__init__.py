"""The models that come with Interlace: where they lie and what they are. Knows nothing of torch."""

from dataclasses import dataclass
from pathlib import Path

_MODELS = Path(__file__).parent / "models"


@dataclass(frozen=True)
class DemoModel:
    """A shipped model: its directory, the pipeline class that it is loaded as (None: no pipeline), one line on it."""

    path: Path
    pipeline_class: str | None
    description: str


MODELS: dict[str, DemoModel] = {
    "demo": DemoModel(_MODELS / "demo", "FluxPipeline", "draws coloured shapes from text, 64 to 192 pixels a side"),
    "demo-edit": DemoModel(_MODELS / "demo", "FluxKontextPipeline", "edits such pictures by instruction"),
    "demo-expand": DemoModel(_MODELS / "demo-expand", None, "expands a short idea into a full prompt"),
}
