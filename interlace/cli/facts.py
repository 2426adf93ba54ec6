"""`interlace info`: what this machine, install and a model can do. Weights are loaded only to measure batch sizes."""

import inspect
import json
import os
import platform
import struct
import sys
from collections import Counter
from collections.abc import Mapping
from importlib import metadata
from math import prod
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from interlace import __version__
from interlace.engine.threads import describe_threads
from interlace.errors import ModelLoadError
from interlace.models.places import model_folder, pipeline_class_of, read_settings, small_files
from interlace.units import show_bytes

_PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "peft", "greenlet", "safetensors", "pillow", "pyarrow")


def gather(model_name: str | None = None, *, local_files_only: bool = False) -> dict[str, Any]:
    """Everything as one JSON-able object. Raises `ModelLoadError` for a model that can't be found."""
    facts: dict[str, Any] = {"interlace": __version__, "python": platform.python_version(), "packages": _versions()}
    facts["machine"] = _machine()
    if model_name is not None:
        facts["model"] = describe_model(model_name, local_files_only=local_files_only)
    return facts


def show(facts: Mapping[str, Any], *, as_json: bool) -> None:
    """Prints what was gathered on stdout."""
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    console = Console(file=sys.stdout, highlight=False)
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in _flat({name: value for name, value in facts.items() if name != "batches"}):
        table.add_row(name, value, style="bold" if not value else "")
    console.print(table)
    if "batches" in facts:
        _show_batches(console, facts["batches"])


def _show_batches(console: Console, batches: Mapping[str, Any]) -> None:
    from interlace.bench.planning.sizing import table_rows

    size, steps = f"{batches['width']}x{batches['height']}", batches["num_inference_steps"]
    heading, *rows = table_rows(batches)
    where = f"{batches['device']}, {steps} steps; memory: {batches['memory']}"
    budget = f"; budget: {show_bytes(batches['budget_bytes'])}" if batches["budget_bytes"] else ""
    table = Table(*heading, title=f"batches of {size} on {where}{budget}")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    if batches["known_costs"]:
        known = Table("known to the engine", "ms by rows", "rows in a forward", title="measured before on this device")
        for shape, cost in batches["known_costs"].items():
            known.add_row(shape, ", ".join(f"{n}: {ms:g}" for n, ms in cost["ms"].items()), str(cost["best_rows"]))
        console.print(known)


def _flat(facts: Mapping[str, Any], indent: int = 0) -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for name, value in facts.items():
        label = "  " * indent + str(name)
        if isinstance(value, Mapping):
            lines += [(label, ""), *_flat(value, indent + 1)]
        elif isinstance(value, list):
            lines.append((label, ", ".join(map(str, value)) or "none"))
        else:
            lines.append((label, f"{value:,}" if isinstance(value, int) and value > 9999 else str(value)))
    return lines


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _machine() -> dict[str, Any]:
    import torch

    facts: dict[str, Any] = {
        "platform": platform.platform(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": describe_threads(),
        "gpus": _gpus(),
        "mps": torch.backends.mps.is_available(),
        "torch": _torch_settings(),
    }
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        facts["memory_gib"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    return facts


def _gpus() -> list[str]:
    import torch

    from interlace.engine import accelerator

    found = torch.accelerator.current_accelerator(check_available=True)
    count = 0 if found is None else torch.accelerator.device_count()
    devices = [torch.device(accelerator.default_device(), index) for index in range(count)]
    sizes = [accelerator.total_memory(device) for device in devices]
    return [
        accelerator.name_of(device) + ("" if size is None else f", {size / 2**30:.0f} GiB")
        for device, size in zip(devices, sizes, strict=True)
    ]


def _torch_settings() -> dict[str, Any]:
    """What of `torch.backends` decides how fast and how exactly forwards run; flags change some of it."""
    import torch

    backends = torch.backends
    kinds = {"flash": "flash", "cudnn": "cudnn", "efficient": "mem_efficient", "math": "math"}
    enabled = [name for name, own in kinds.items() if getattr(backends.cuda, f"{own}_sdp_enabled")()]
    return {
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cuda.matmul.allow_tf32": backends.cuda.matmul.allow_tf32,
        "cudnn.allow_tf32": backends.cudnn.allow_tf32,
        "cudnn.benchmark": backends.cudnn.benchmark,
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "attention_kernels": enabled,
    }


def describe_model(model: str, *, local_files_only: bool = False) -> dict[str, Any]:
    """Class, components with parameter counts, default call arguments, and how requests may share forwards.

    Of a language model, which has no pipeline: class, parameter count, context length in tokens.
    """
    import diffusers

    folder, class_name = _find(model, local_files_only)
    index = read_settings(folder / "model_index.json")
    if "_class_name" not in index:
        return _describe_language_model(model, folder)
    class_name = class_name or index["_class_name"]
    own = read_settings(folder / "interlace.json")
    components = {
        name: _component(folder / name, library_and_class[1])
        for name, library_and_class in index.items()
        if isinstance(library_and_class, list) and len(library_and_class) == 2 and library_and_class[1]
    }
    facts: dict[str, Any] = {"name": model, "folder": str(folder), "pipeline": class_name}
    if "description" in own:
        facts["description"] = own["description"]
    facts["components"] = components
    pipeline = getattr(diffusers, class_name, None)
    if pipeline is None:
        facts["batching"] = f"unknown: diffusers {diffusers.__version__} has no {class_name}"
        return facts
    facts["default_arguments"] = {**_call_defaults(pipeline), **own.get("defaults", {}).get(class_name, {})}
    facts["limits"] = own.get("limits", {})
    facts["batching"] = "requests share forwards at every step"
    return facts


def _find(model: str, local_files_only: bool) -> tuple[Path, str | None]:
    """The folder of a model, and the pipeline class that a built-in name stands for."""
    if folder := model_folder(model):
        return folder, pipeline_class_of(model)
    try:
        return small_files(model, local_files_only=local_files_only), None
    except Exception as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelLoadError(f"can't find {model!r}, neither as a directory nor on the hub: {first_line}") from error


def _describe_language_model(model: str, folder: Path) -> dict[str, Any]:
    config = read_settings(folder / "config.json")
    if not config.get("architectures"):
        raise ModelLoadError(
            f"{folder} holds neither a model_index.json with a _class_name nor a config.json with architectures; "
            "expected a directory in the format of diffusers or transformers"
        )
    text = config.get("text_config", config)
    return {
        "name": model,
        "folder": str(folder),
        "language_model": _component(folder, config["architectures"][0]),
        "context_tokens": text.get("max_position_embeddings") or text.get("n_positions") or "unknown",
        "used_by": "a stage of a --deploy-config, or --prompt-enhance",
    }


def _component(folder: Path, class_name: str) -> str:
    sizes = _parameter_counts(folder)
    if not sizes:
        return class_name
    kinds = ", ".join(sorted(kind.lower() for kind in sizes))
    return f"{class_name}, {sum(sizes.values()):,} parameters in {kinds}"


def _parameter_counts(folder: Path) -> Counter[str]:
    """Parameters by stored type, from the headers of the safetensors files; of one variant where there are several."""
    variants: dict[str, list[Path]] = {}
    for path in folder.glob("*.safetensors"):
        stem = path.name.removesuffix(".safetensors").split("-000")[0]
        variants.setdefault(stem.partition(".")[2], []).append(path)
    counts: Counter[str] = Counter()
    for path in variants.get("") or next(iter(variants.values()), []):
        for tensor in _header(path).values():
            if "shape" in tensor:
                counts[tensor["dtype"]] += prod(tensor["shape"])
    return counts


def _header(path: Path) -> dict[str, Any]:
    """Source: the safetensors format, an 8-byte length and that much JSON before the data."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return dict(json.loads(file.read(length)))


def _call_defaults(pipeline: type) -> dict[str, Any]:
    parameters = inspect.signature(pipeline.__call__).parameters.values()
    return {p.name: p.default for p in parameters if isinstance(p.default, (int, float, str))}
