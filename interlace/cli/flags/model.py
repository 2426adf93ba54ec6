"""The flags that say which model is loaded, and how."""

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from interlace.cli.flags.shared import ModelGroup


@Parameter(name="*", group=ModelGroup)
@dataclass(frozen=True, kw_only=True)
class ModelFlags:
    """A model, and where and in which precision it is to be."""

    model_name: str = "demo"
    """A directory, a hub id, a checkpoint in one file, or "demo" for the built-in model, which also edits."""
    torch_dtype: str | None = None
    """float32, bfloat16 or float16; by default bfloat16 on a GPU, float32 on a CPU."""
    device: str | None = None
    """cuda, cuda:1, cpu, ...; by default a GPU where there is one."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    variant: str | None = None
    """Which weight files, such as fp16."""
    local_files_only: Annotated[bool, Parameter(negative=())] = False
    """Don't download anything."""

    def set(self) -> dict[str, object]:
        """What is not left to defaults, but for the name, as `load_model`, `Omni` and stages call it."""
        named = {
            "dtype": self.torch_dtype,
            "device": self.device,
            "revision": self.revision,
            "variant": self.variant,
            "local_files_only": self.local_files_only or None,
        }
        return {name: value for name, value in named.items() if value is not None}
