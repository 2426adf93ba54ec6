"""`interlace info`."""

from typing import Annotated

from cyclopts import Parameter

from interlace.flags import ModelGroup


def info(
    *,
    model_name: Annotated[str | None, Parameter(group=ModelGroup)] = None,
    json: Annotated[bool, Parameter(negative=())] = False,
    local_files_only: Annotated[bool, Parameter(group=ModelGroup, negative=())] = False,
) -> None:
    """Say what this machine, this install and a model can do.

    ```text
    interlace info
    interlace info --model-name demo
    interlace info --model-name ./my-model --json
    ```

    Parameters
    ----------
    model_name
        A directory, a hub id or "demo": its class, components, default arguments, and what of it can be batched.
    json
        One JSON object on stdout instead of a table.
    local_files_only
        Don't download anything.
    """
    from interlace.info import gather, show

    show(gather(model_name, local_files_only=local_files_only), as_json=json)
