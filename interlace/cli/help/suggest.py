"""What to say of a flag or command that there isn't: what it means here, before what it is spelt like."""

from collections.abc import Collection
from difflib import get_close_matches

from cyclopts import CycloptsError, UnknownCommandError, UnknownOptionError

from interlace.cli.help.names import OTHER_NAMES, flag_names

# What other tools call it -> our flag, in the words of a command line.
_MEANINGS = {
    "batch": "--batch-size", "bs": "--batch-size", "b": "--batch-size", "concurrency": "--batch-size",
    "cfg": "--guidance-scale", "cfg-scale": "--guidance-scale", "scale": "--guidance-scale",
    "num-steps": "--steps", "sampling-steps": "--steps", "inference-steps": "--steps", "s": "--steps",
    "resolution": "--size", "res": "--size", "dimensions": "--size", "image-size": "--size",
    "w": "--width", "h": "--height", "precision": "--dtype", "fp16": "--dtype float16", "bf16": "--dtype bfloat16",
    "half": "--dtype float16", "checkpoint": "--model", "ckpt": "--model", "model-path": "--model",
    "model-id": "--model", "repo": "--model", "output": "--output-dir", "outdir": "--output-dir",
    "out-dir": "--output-dir", "save-dir": "--output-dir", "output-path": "--output-dir", "dest": "--output-dir",
    "output-folder": "--output-dir", "directory": "--output-dir", "count": "--num-images", "num": "--num-images",
    "samples": "--num-images", "num-samples": "--num-images", "num-images-per-prompt": "--num-images",
    "num-outputs": "--num-images", "file": "--prompts-file", "prompts": "--prompts-file",
    "input-file": "--prompts-file", "input": "--prompts-file", "from-file": "--prompts-file", "csv": "--prompts-file",
    "prompt-file": "--prompts-file", "dataset": "--prompts-file", "p": "--prompt", "text": "--prompt",
    "caption": "--prompt", "instruction": "--prompt", "neg": "--negative", "negative-prompts": "--negative",
    "gpus": "--num-gpus", "gpu": "--device cuda", "cuda": "--device cuda", "cpu": "--device cpu", "d": "--device",
    "tensor-parallel-size": "--num-gpus", "tp": "--num-gpus", "workers": "--num-processes",
    "processes": "--num-processes", "jobs": "--num-processes", "j": "--num-processes", "force": "--overwrite",
    "f": "--overwrite", "clobber": "--overwrite", "format": "--output-format", "quality": "--output-quality",
    "offline": "--local-files-only", "token": "the environment variable HF_TOKEN", "api-base": "--base-url",
    "endpoint": "--base-url", "url": "--base-url", "compile": "--enable-compile", "max-batch-size": "--batch-size",
    "attention": "--attention-backend", "random-seed": "--seed", "denoise": "--strength",
    "denoising-strength": "--strength", "img": "--image", "images": "--image", "input-image": "--image",
    "init-image": "--image", "p-port": "--port", "listen": "--host", "bind": "--host", "vram": "--memory-budget",
    "gpu-memory-utilization": "--memory-utilization", "quantization": "--quantize", "loras": "--lora",
}  # fmt: skip
_NEEDLESS = {
    "resume": "a run goes on by itself: run the same command again",
    "continue": "a run goes on by itself: run the same command again",
    "help-full": "`--help-all` shows every flag",
    "verbose": "`interlace config --dump` shows all settings",
}
_COMMANDS = {
    "generate": "t2i", "gen": "t2i", "txt2img": "t2i", "text2image": "t2i", "text-to-image": "t2i", "draw": "t2i",
    "image": "t2i", "run": "t2i", "create": "t2i", "img2img": "edit", "i2i": "edit", "image-to-image": "edit",
    "video": "t2v", "film": "t2v", "txt2vid": "t2v", "text-to-video": "t2v", "i2v": "t2v", "animate": "t2v",
    "audio": "t2a", "sound": "t2a", "music": "t2a", "text-to-audio": "t2a",
    "chat": "answer", "ask": "answer", "speak": "answer", "speech": "answer", "tts": "answer", "caption": "answer",
    "server": "serve", "start": "serve", "api": "serve", "web": "serve", "ui": "serve", "gui": "serve",
    "webui": "serve", "benchmark": "bench",
    "doctor": "info", "models": "info", "status": "info", "env": "info", "settings": "config",
    "completions": "completion", "help": "--help", "version": "--version",
}  # fmt: skip


def explain(error: CycloptsError) -> str:
    """What was wrong with a command line, and what was probably meant."""
    if isinstance(error, UnknownOptionError):
        token, known = error.token, flag_names(error.argument_collection)
        given = (token.keyword or token.value).partition("=")[0]
        if token.source == "cli":
            return f"unknown option {given}: {_meant_flag(given, known)}"
        key = given.strip("[]")
        near = get_close_matches(key, sorted(known), 1)
        return f"{token.source}: unknown key {key!r}; " + (f"did you mean {near[0]}?" if near else "leave it out")
    if isinstance(error, UnknownCommandError) and error.unused_tokens:
        return _unknown_command(error.unused_tokens, str(error))
    return str(error)


def _meant_flag(given: str, known: Collection[str]) -> str:
    given = given.lstrip("-").replace("_", "-")
    if given in _NEEDLESS:
        return _NEEDLESS[given]
    meant = _MEANINGS.get(given)
    if meant is not None and (not meant.startswith("-") or _is_known(meant, known)):
        return f"here that is {meant}"
    names = [name for name in (*OTHER_NAMES, "size") if len(name) > 1 and _is_known(name, known)]
    near = get_close_matches(given, [name.replace("_", "-") for name in (*names, *known, "help", "help-all")], 1)
    return f"did you mean --{near[0]}?" if near else "`--help-all` shows every flag"


def _is_known(flag: str, known: Collection[str]) -> bool:
    name = flag.partition(" ")[0].lstrip("-").replace("-", "_")
    return name in known or OTHER_NAMES.get(name) in known or (name == "size" and {"height", "width"} <= set(known))


def _unknown_command(tokens: list[str], words: str) -> str:
    given = tokens[0]
    if given.lower() in _COMMANDS:
        return f"unknown command {given}: here that is `interlace {_COMMANDS[given.lower()]}`"
    if " " in given:
        return f'"{given}" is no command; to draw it: interlace t2i "{given}"'
    return words
