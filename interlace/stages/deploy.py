"""A deploy file (`stage_args:`, YAML; or vLLM-Omni's `stages:`) as stages. Errors name the file and the line."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from interlace.errors import InvalidRequestError
from interlace.stages.config import DiTConfig, HandoffConfig, OmniStageConfig, build, check_stages
from interlace.stages.foreign import in_our_keys, is_foreign
from interlace.stages.omni.deploy import names_parts, one_stage
from interlace.stages.placement_keys import as_own

_RENAMED = {"model_path": "model"}
_HANDOFF_KEYS = frozenset({"function", "on_error"})
_MAPPINGS = ("engine_args", "default_sampling_params", "dit_config")
Path_ = tuple[str | int, ...]


def load_deploy_config(path: Path, model: str | None = None) -> tuple[OmniStageConfig, ...]:
    """The stages of a deploy file, in order; `model` is that of stages that name none, where the file has vLLM-Omni's
    keys. Raises `InvalidRequestError` with the line that is at fault."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        words = getattr(error, "strerror", None) or error
        raise InvalidRequestError(f"can't read the deploy file {path}: {words}", "deploy_config") from error
    return parse_deploy_config(text, str(path), model)


def parse_deploy_config(text: str, name: str = "deploy file", model: str | None = None) -> tuple[OmniStageConfig, ...]:
    """As `load_deploy_config`, from text."""
    lines: dict[Path_, int] = {}
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        values = _value(root, (), lines, name) if root is not None else None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InvalidRequestError(f"{name}, line {line}: not plain YAML: {error.problem}", "deploy_config") from error
    if isinstance(values, dict) and is_foreign(values):
        values = _translated(values, model, lines, name)
    if not isinstance(values, dict) or not isinstance(values.get("stage_args"), list) or not values["stage_args"]:
        raise InvalidRequestError(f"{name}, line 1: expected `stage_args:` with a list of stages", "deploy_config")
    for key in values:
        if key != "stage_args":
            _fail(name, lines, (key,), f"unknown key {key!r}; expected stage_args alone")
    given = values["stage_args"]
    if names_parts(given):
        given = [_joined(given, model, lines, name)]
    stages = [_stage(one, index, lines, name) for index, one in enumerate(given)]
    try:
        return check_stages(stages)
    except InvalidRequestError as error:
        _, place, key = (error.param or "").split(".")
        _fail(name, lines, _place(lines, ("stage_args", int(place)), key), str(error))
        raise


def _translated(values: dict[str, Any], model: str | None, lines: dict[Path_, int], name: str) -> dict[str, Any]:
    """A file with vLLM-Omni's keys in ours; its lines count for the stages."""
    try:
        ours = in_our_keys(values, model)
    except InvalidRequestError as error:
        _fail(name, lines, _place(lines, (), error.param), str(error))
        raise
    lines |= {("stage_args", *path[1:]): line for path, line in lines.items() if path[:1] == ("stages",)}
    return ours


def _as_own(values: Any) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise InvalidRequestError(f"a stage is {values!r}; expected keys with values, such as model_stage: thinker")
    return {_RENAMED.get(key, key): value for key, value in as_own(values).items()}


def _joined(given: list[Any], model: str | None, lines: Mapping[Path_, int], name: str) -> dict[str, Any]:
    """The parts of an omni-modal model, a stage each, as one stage."""
    place = 0
    try:
        own = []
        for place in range(len(given)):
            own.append(_as_own(given[place]))
        if model is not None:
            own[0].setdefault("model", model)
        return one_stage(own)
    except InvalidRequestError as error:
        at, _, key = (error.param or "").rpartition(".")
        found: Path_ = ("stage_args", int(at) if at else place)
        _fail(name, lines, _place(lines, found, key), str(error))
        raise


def _stage(values: Any, index: int, lines: Mapping[Path_, int], name: str) -> OmniStageConfig:
    at: Path_ = ("stage_args", index)
    if not isinstance(values, dict):
        _fail(name, lines, at, f"a stage is {values!r}; expected keys with values, such as stage_type: diffusion")
    values = {_RENAMED.get(key, key): value for key, value in values.items()}
    try:
        values = as_own(values)
    except InvalidRequestError as error:
        _fail(name, lines, _place(lines, at, error.param), str(error))
    values = {key: {} if key in _MAPPINGS and value is None else value for key, value in values.items()}
    values.setdefault("stage_id", index)
    for key in ("stage_type", "model"):
        if key not in values:
            _fail(name, lines, at, f"the stage has no {key}; expected {_EXPECTED[key]}")
    try:
        if "handoff" in values:
            values["handoff"] = _handoff(values["handoff"])
        if "dit_config" in values:
            values["dit_config"] = build(DiTConfig, values["dit_config"], "dit_config")
        for key in ("input_modalities", "output_modalities"):
            if key in values:
                values[key] = (values[key],) if isinstance(values[key], str) else tuple(values[key])
        if isinstance(values.get("device"), list):
            values["device"] = tuple(map(str, values["device"]))
        stage = build(OmniStageConfig, values, "the stage")
        _check_dtype(stage.engine_args.get("dtype"))
        return stage
    except (InvalidRequestError, TypeError) as error:
        _fail(name, lines, _place(lines, at, getattr(error, "param", None)), str(error))
        raise


_EXPECTED = {"stage_type": "ar or diffusion", "model": "a directory, a hub id or a built-in name"}


def _check_dtype(dtype: Any) -> None:
    from interlace.models.loader import parse_dtype

    parse_dtype(dtype)


def _handoff(value: Any) -> HandoffConfig:
    """A name, or a mapping with the name as `function`, `on_error`, and the function's options beside them."""
    from interlace.stages.handoff import resolve

    if isinstance(value, str):
        value = {"function": value}
    if not isinstance(value, dict) or not isinstance(value.get("function"), str):
        raise InvalidRequestError(
            f"handoff is {value!r}; expected a name, or `function:` with a name and its options", "handoff"
        )
    options = {key: option for key, option in value.items() if key not in _HANDOFF_KEYS}
    config = HandoffConfig(**{key: value[key] for key in _HANDOFF_KEYS & value.keys()}, options=options)
    resolve(config)
    return config


def _place(lines: Mapping[Path_, int], at: Path_, key: str | None) -> Path_:
    """The line of a key that an error names, anywhere in its stage; else the stage's."""
    found = [path for path in lines if len(path) > len(at) and path[: len(at)] == at and path[-1] == key]
    return min(found, key=len) if found else at


def _fail(name: str, lines: Mapping[Path_, int], at: Path_, words: str) -> None:
    raise InvalidRequestError(f"{name}, line {lines.get(at, 1)}: {words}", str(at[-1]))


def _value(node: yaml.Node, at: Path_, lines: dict[Path_, int], name: str) -> Any:
    """A node as a plain value; notes where every key and item stands."""
    lines.setdefault(at, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*at, index), lines, name) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        result: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise InvalidRequestError(f"{name}, line {key_node.start_mark.line + 1}: a key is no text")
            key = _scalar(key_node)
            path = (*at, key)
            if key in result:
                raise InvalidRequestError(f"{name}, line {key_node.start_mark.line + 1}: {key!r} stands there twice")
            lines[path] = key_node.start_mark.line + 1
            result[key] = _value(value_node, path, lines, name)
        return result
    return _scalar(node)


def _scalar(node: yaml.Node) -> Any:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node, deep=True)
    finally:
        loader.dispose()
