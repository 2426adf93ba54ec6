"""Why a model could not be loaded, in words that say what to do; the libraries below speak of stack traces."""

import os
import re
from pathlib import Path

EXPECTED = "expected a directory with a model_index.json, a hub id such as black-forest-labs/FLUX.1-dev, or 'demo'"
_TOKEN = "accept its terms on https://huggingface.co/{model} and set HF_TOKEN to a token of yours"
# Names of the hub's errors, which differ between its versions in where they live.
_GATED = ("GatedRepoError",)
_MISSING = ("RepositoryNotFoundError", "RevisionNotFoundError", "HFValidationError")
_OFFLINE = ("LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectError", "ConnectionError", "ConnectTimeout")
_ADVICE = re.compile(r"[^.;]*\b(stack ?trace|traceback|local_files_only=|unset the)\b[^.;]*[.;]?\s*", re.IGNORECASE)


def why_not_loaded(model: str, error: BaseException, verb: str = "load") -> str:
    """The whole message for a model that diffusers could not load."""
    return f"cannot {verb} model {model!r}: {_why(model, error)}"


def _why(model: str, error: BaseException) -> str:
    names = {type(one).__name__ for one in _chain(error)} | set(_mentioned(error))
    if _looks_like_a_path(model) and not os.path.isdir(os.path.expanduser(model)):  # noqa: PTH111, PTH112  Path's raise
        return f"there is no such directory; {EXPECTED}"
    if names.intersection(_GATED) or ("gated" in str(error).lower() and "repo" in str(error).lower()):
        return f"it is on the hub, but not for everyone: {_TOKEN.format(model=model)}"
    if names.intersection(_MISSING) or "is not a valid model identifier" in str(error):
        return f"the hub has none of that name (or it is private: then set HF_TOKEN to a token of yours); {EXPECTED}"
    if names.intersection(_OFFLINE) or "not fully cached locally" in str(error):
        return (
            f"it is not on this machine, and the hub can't be reached from here; download it where there is a "
            f"network (`hf download {model}`) and name that directory, or take the built-in model: --model demo"
        )
    return f"{plain(error)}; {EXPECTED}"


def plain(error: BaseException) -> str:
    """An error's words on one line, without advice that only its programmers can follow."""
    words = _ADVICE.sub("", " ".join(str(error).split())).strip(" .;")
    return words or type(error).__name__


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in found:
        found.append(one)
        one = one.__cause__ or one.__context__
    return found


def _mentioned(error: BaseException) -> list[str]:
    return [name for name in (*_GATED, *_MISSING, *_OFFLINE) if name in str(error)]


def _looks_like_a_path(model: str) -> bool:
    return model.startswith((".", "/", "~")) or model.count("/") > 1 or "\\" in model or Path(model).suffix == ".json"
