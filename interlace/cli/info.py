"""`interlace info`."""

from typing import Annotated, Any

from cyclopts import Parameter

from interlace.cli.flags.shared import ModelGroup
from interlace.cli.invocation import without_bars
from interlace.config import EngineConfig
from interlace.errors import InvalidRequestError


def info(
    *,
    model_name: Annotated[str | None, Parameter(alias="--model", group=ModelGroup)] = None,
    height: Annotated[int | None, Parameter(group=ModelGroup)] = None,
    width: Annotated[int | None, Parameter(group=ModelGroup)] = None,
    torch_dtype: Annotated[str | None, Parameter(group=ModelGroup)] = None,
    device: Annotated[str | None, Parameter(group=ModelGroup)] = None,
    memory_utilization: Annotated[float | None, Parameter(group=ModelGroup)] = None,
    memory_budget: Annotated[str | None, Parameter(group=ModelGroup)] = None,
    json: Annotated[bool, Parameter(negative=())] = False,
    local_files_only: Annotated[bool, Parameter(group=ModelGroup, negative=())] = False,
) -> None:
    """Say what this machine, this install and a model can do.

    ```text
    interlace info
    interlace info --model-name demo
    interlace info --model-name ./my-model --json
    interlace info --model-name demo --height 128 --width 128
    ```

    With a height or a width the model is loaded, and batch sizes are measured for half a minute or so: memory, speed,
    which of them fit, and which is best. What the engine measured before on this device is told, too.

    Parameters
    ----------
    model_name
        A directory, a hub id or "demo": its class, components, default arguments, and what of it can be batched.
    height
        Pixels: measure batch sizes for pictures of this height (the other side: the same, unless given).
    width
        Pixels.
    torch_dtype
        float32, bfloat16 or float16, for measuring.
    device
        cuda, cpu, ..., for measuring.
    memory_utilization
        Which batch sizes fit: the share of the device's memory that may be used, as for t2i and serve.
    memory_budget
        The same in bytes or as text such as 20GiB.
    json
        One JSON object on stdout instead of a table.
    local_files_only
        Don't download anything.
    """
    from interlace.cli.facts import gather, show

    facts = gather(model_name, local_files_only=local_files_only)
    if height is not None or width is not None:
        if model_name is None:
            raise InvalidRequestError("a height or width needs --model-name", "model_name")
        size = (height or width or 0, width or height or 0)
        config = EngineConfig(memory_utilization=memory_utilization, memory_budget=memory_budget)
        facts["batches"] = _measure(model_name, size, config, torch_dtype, device, local_files_only)
    show(facts, as_json=json)


def _measure(
    model_name: str, size: tuple[int, int], config: EngineConfig, dtype: str | None, device: str | None, local: bool
) -> dict[str, Any]:
    from interlace.bench.planning.sizing import batch_table
    from interlace.models.loader import load_model

    without_bars()
    model = load_model(model_name, dtype=dtype, device=device, local_files_only=local)
    model.pipeline.set_progress_bar_config(disable=True)
    return batch_table(model, *size, config)
