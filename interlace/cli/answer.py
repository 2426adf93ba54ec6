"""`interlace answer`: what a language model says to rows of text, pictures, sound and films, written and spoken."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from interlace.cli.flags.answers import AnswerCommonFlags
from interlace.cli.flags.bulk import BulkFlags, Many, Switch
from interlace.cli.flags.shared import EngineFlags, RunGroup
from interlace.cli.help.words import words_of_t2i
from interlace.errors import InvalidRequestError
from interlace.request import SamplingParams
from interlace.stages.config import OmniStageConfig


def answer(
    *prompts: Annotated[str, Parameter(group=RunGroup)],
    prompt: Annotated[list[str] | None, Many, Parameter(group=RunGroup)] = None,
    prompts_file: Annotated[str | None, Parameter(group=RunGroup)] = None,
    media_dir: Annotated[Path | None, Parameter(group=RunGroup)] = None,
    allow_remote_media: Annotated[bool, Switch, Parameter(group=RunGroup)] = False,
    deploy_config: Annotated[Path | None, Parameter(group=RunGroup)] = None,
    common: AnswerCommonFlags = AnswerCommonFlags(),
) -> int:
    """Answer rows of text, pictures, sound and films with a language model, by the thousand; aloud with an omni-modal
    one.

    Writes what `interlace t2i` writes, one text or one sound in the place of one picture, and goes on where it was
    stopped in the same way. The built-in `demo` is no language model: name one, such as Qwen2.5-Omni, Qwen3-Omni, any
    that sees or hears in transformers, or demo-expand.

    Parameters
    ----------
    prompts
        Prompts, each in quotes; or the file that they are in.
    prompt
        One or more prompts.
    prompts_file
        As of t2i. Columns: prompt, id, seed, image, audio, video (a path, a URL, a data URL, bytes as in datasets, or a
        list of these; or all in one column multi_modal_data), max_tokens, max_speech_tokens, temperature, top_p, top_k,
        voice. A row with media needs no prompt.
    media_dir
        What relative paths of media are relative to; by default the input's folder.
    allow_remote_media
        Fetch media from URLs: from public addresses only, at most 64 MiB and 30 s each.
    deploy_config
        A YAML file that says where the model's parts run (see docs/omni.md).
    """
    from interlace.bulk.input.media import ImageRules
    from interlace.cli.rows import open_rows, prompt_rows
    from interlace.cli.session import generate

    if media_dir is not None and not media_dir.is_dir():
        raise InvalidRequestError(f"--media-dir {media_dir} is not a folder", "media_dir")
    prompt, prompts_file = words_of_t2i(prompts, prompt, prompts_file, command="answer")
    stages = _stages(common, deploy_config)
    own = {name: value for name, value in vars(common).items() if name not in ("answer", "batching")}
    flags = BulkFlags(**own, makes="speech" if common.output.speaks else "text", own_stages=stages)
    defaults = SamplingParams(extra=common.answer.sampling())
    if prompt is not None:
        rows = prompt_rows(prompt, defaults, flags.select)
    else:
        rules = ImageRules(folder=media_dir, allow_remote=allow_remote_media)
        rows = open_rows(prompts_file or "", defaults, flags.select, task="answer", images=rules)
    return generate(rows, flags, EngineFlags(max_num_seqs=common.batching.max_num_seqs))


def _stages(common: AnswerCommonFlags, deploy_config: Path | None) -> tuple[OmniStageConfig, ...]:
    """The one stage that answers. Raises `InvalidRequestError` for a model that draws, or several stages."""
    from interlace.stages.config import create_ar_stage_config
    from interlace.stages.deploy import load_deploy_config
    from interlace.stages.omni.families import omni_stages

    model, options = common.model.model_name, common.model.set()
    if deploy_config is not None:
        stages = load_deploy_config(deploy_config, None if model == "demo" else model)
        if len(stages) != 1 or stages[0].stage_type == "diffusion":
            text = f"{deploy_config} has {', '.join(one.stage_type for one in stages)}; expected one stage that writes"
            raise InvalidRequestError(text, "deploy_config")
        if common.answer.system_prompt is not None:
            raise InvalidRequestError("say system_prompt in the deploy file", "system_prompt")
        return stages
    if model == "demo":
        example = "interlace answer --model Qwen/Qwen2.5-Omni-7B"
        raise InvalidRequestError(f"demo draws pictures; name a model that writes: {example}", "model_name")
    found = omni_stages(model, options, common.batching.max_num_seqs, look=not options.get("local_files_only"))
    args: dict[str, object] = {
        name: options[name] for name in ("dtype", "revision", "local_files_only") if name in options
    }
    args |= {"max_num_seqs": common.batching.max_num_seqs}
    (stage,) = found or (create_ar_stage_config(0, model, engine_args=args, device=common.model.device),)
    return (_told(stage, common.answer.system_prompt),)


def _told(stage: OmniStageConfig, system_prompt: str | None) -> OmniStageConfig:
    if system_prompt is None:
        return stage
    return replace(stage, engine_args={**stage.engine_args, "system_prompt": system_prompt})
