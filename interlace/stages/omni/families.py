"""Which models are omni-modal: a new family is one file beside this one and one line here. Knows nothing of torch."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from interlace.errors import ModelLoadError
from interlace.models.places import model_folder
from interlace.stages.config import OmniStageConfig
from interlace.stages.language.config import AREngineArgs

# `architectures` of a model's config.json -> its class in transformers, and its `Family`
FAMILIES: dict[str, tuple[str, str]] = {
    "Qwen2_5OmniForConditionalGeneration": (
        "Qwen2_5OmniForConditionalGeneration",
        "interlace.stages.omni.models.qwen2_5:Qwen2_5Omni",
    ),
    "Qwen2_5OmniModel": ("Qwen2_5OmniForConditionalGeneration", "interlace.stages.omni.models.qwen2_5:Qwen2_5Omni"),
    "Qwen3OmniMoeForConditionalGeneration": (
        "Qwen3OmniMoeForConditionalGeneration",
        "interlace.stages.omni.models.qwen3:Qwen3Omni",
    ),
}


def architecture_of(name: str, revision: str | None = None, *, local_files_only: bool = False) -> str | None:
    """What a model's config.json says that it is; None where there is no such file, or it says nothing.

    Raises `ModelLoadError` for a file that can't be read.
    """
    folder = model_folder(name)
    if folder is not None:
        path = folder / "config.json"
    elif Path(name).exists() or "/" not in name:
        return None
    else:
        found = _hub_file(name, revision, local_files_only)
        if found is None:
            return None
        path = Path(found)
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"can't read {path}: {error}") from error
    names = values.get("architectures") if isinstance(values, dict) else None
    return str(names[0]) if isinstance(names, list) and names else None


def is_omni(name: str, *, look: bool = False) -> bool:
    """Whether a name is that of an omni-modal model: a directory's, and with `look` a hub id's."""
    return (look or model_folder(name) is not None) and architecture_of(name) in FAMILIES


def _hub_file(name: str, revision: str | None, local_files_only: bool) -> str | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return str(hf_hub_download(name, "config.json", revision=revision, local_files_only=local_files_only))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError):
        return None


def sees(name: str, revision: str | None = None, *, local_files_only: bool = False) -> bool:
    """Whether a model is a language model of transformers that sees or hears, or is omni-modal."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES as known

    architecture = architecture_of(name, revision, local_files_only=local_files_only) or ""
    return architecture in FAMILIES or architecture in known.values()


def omni_stage(
    model: str,
    dtype: str | None = None,
    device: str | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    max_num_seqs: int = 16,
) -> OmniStageConfig:
    """The one stage that an omni-modal model is."""
    args = {"dtype": dtype, "revision": revision, "local_files_only": local_files_only, "max_num_seqs": max_num_seqs}
    return OmniStageConfig(
        stage_id=0,
        stage_type="omni",
        model=model,
        input_modalities=("text", "image", "audio", "video"),
        output_modalities=("text", "audio"),
        engine_args={name: value for name, value in args.items() if value is not None},
        device=device,
    )


def seeing_stage(config: OmniStageConfig) -> OmniStageConfig | None:
    """A language model's stage as one that sees and hears, where its model does; None for any other."""
    args = config.engine_config()
    if not isinstance(args, AREngineArgs):
        return None
    if not sees(config.model, args.revision, local_files_only=args.local_files_only):
        return None
    kept = ("max_num_seqs", "max_model_len", "dtype", "revision", "local_files_only", "system_prompt")
    own = {name: value for name, value in config.engine_args.items() if name in kept}
    return replace(config, stage_type="omni", engine_args=own)


def omni_stages(
    model: str, places: Mapping[str, Any], max_num_seqs: int, *, look: bool
) -> tuple[OmniStageConfig, ...] | None:
    """The stages of an omni-modal model from a command's flags; None for any other model."""
    if not is_omni(model, look=look):
        return None
    return (
        omni_stage(
            model,
            places.get("dtype"),
            places.get("device"),
            places.get("revision"),
            bool(places.get("local_files_only")),
            max_num_seqs,
        ),
    )
