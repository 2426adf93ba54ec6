"""Where LoRA files are and what they are called. Knows nothing of pipelines or engines; no torch."""

import hashlib
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from interlace.errors import InvalidRequestError
from interlace.extras import Extras
from interlace.models.places import model_folder

SUFFIXES = (".safetensors", ".sft")
# What the formats put behind a layer's name: peft's, diffusers', kohya's, LyCORIS's.
_LAYER = re.compile(r"\.(lora_|lora\.|lora_linear_layer\.|alpha$|dora_scale|lokr_|hada_|diff|processor\.).*$")
FOLDER = "lora"  # in a model's own directory: the adapters that come with it


@dataclass(frozen=True)
class LoraSource:
    """An adapter's name, and its file: a path, a directory, or a hub id with or without the file's name in it."""

    name: str
    place: str
    weight_file: str | None = None

    @classmethod
    def parse(cls, text: str) -> "LoraSource":
        """`NAME=PATH_OR_ID[:WEIGHT_FILE]`; without a name it is the file's. Raises `InvalidRequestError`."""
        name, equals, place = text.partition("=")
        if not equals:
            name, place = Path(text.partition(":")[0]).stem, text
        name, place, weight_file = name.strip(), place.strip(), None
        if not name or not place:
            raise InvalidRequestError(f"lora is {text!r}; expected NAME=PATH_OR_ID or NAME=ID:WEIGHT_FILE", "lora")
        if not Path(place).expanduser().exists() and ":" in place:
            place, _, weight_file = place.rpartition(":")
        return cls(check_name(name), place, weight_file or None)

    def find(self, *, local_files_only: bool = False) -> Path:
        """The file on this machine, fetched from the hub where it must be. Raises `InvalidRequestError`."""
        path = Path(self.place).expanduser()
        if path.is_file():
            return path
        if path.is_dir():
            return self._in_folder(path)
        if path.suffix in SUFFIXES or self.place.count("/") != 1 or self.place.startswith((".", "/", "~")):
            text = f"lora {self.name!r}: there is no file {self.place}"
            raise InvalidRequestError(f"{text}; expected a .safetensors file, a directory or a hub id", "lora")
        return self._fetched(local_files_only)

    def _in_folder(self, folder: Path) -> Path:
        if self.weight_file is not None:
            if not (folder / self.weight_file).is_file():
                raise InvalidRequestError(f"lora {self.name!r}: {folder} has no {self.weight_file}", "lora")
            return folder / self.weight_file
        found = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
        if len(found) != 1:
            known = ", ".join(path.name for path in found) or "none"
            text = f"lora {self.name!r}: {folder} holds {len(found)} .safetensors files ({known}); name one"
            raise InvalidRequestError(text, "lora")
        return found[0]

    def _fetched(self, local_files_only: bool) -> Path:
        from diffusers.loaders.lora_base import _best_guess_weight_name
        from huggingface_hub import hf_hub_download

        try:
            name = self.weight_file or _best_guess_weight_name(
                self.place, file_extension=".safetensors", local_files_only=local_files_only
            )
            return Path(hf_hub_download(self.place, name, local_files_only=local_files_only))
        except Exception as error:  # of the hub and the network: no common base
            words = " ".join(str(error).split())[:300]
            raise InvalidRequestError(f"lora {self.name!r}: can't fetch {self.place}: {words}", "lora") from error


def check_name(name: str) -> str:
    """An adapter's name, which peft uses as a module's. Raises `InvalidRequestError`."""
    if not isinstance(name, str) or not name or "." in name or name != name.strip() or len(name) > 200:
        raise InvalidRequestError(
            f"lora is named {name!r}; expected some letters, without dots or blanks around", "lora"
        )
    return name


def num_layers(tensors: Iterable[str]) -> int:
    """How many layers of a denoiser (text encoders aside) a file's tensors are for, by their names."""
    layers = {_LAYER.sub("", name) for name in tensors}
    return sum(not name.startswith(("text_encoder", "lora_te", "te")) for name in layers)


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def own_sources(model: str) -> dict[str, LoraSource]:
    """The adapters in the directory of a model on disk (or built in), by name."""
    folder = model_folder(model)
    return {} if folder is None else sources_in(folder / FOLDER)


def sources_in(folder: Path) -> dict[str, LoraSource]:
    """Every .safetensors file in a directory (and those one directory down, by that directory's name)."""
    if not folder.is_dir():
        return {}
    found = {}
    for path in sorted(folder.iterdir()):
        inner = [one for one in path.iterdir() if one.suffix in SUFFIXES] if path.is_dir() else []
        if path.suffix in SUFFIXES and path.is_file():
            found[path.stem] = LoraSource(path.stem, str(path))
        elif len(inner) == 1 and "." not in path.name:
            found[path.name] = LoraSource(path.name, str(inner[0]))
    return {name: source for name, source in found.items() if "." not in name}


def wanted_sources(model: str, flags: Sequence[str]) -> list[LoraSource]:
    """What `--lora` names: files and ids, or by name alone those that come with the model.

    Raises `InvalidRequestError` for what can be neither.
    """
    own = own_sources(model)
    return [own[text] if text in own else _brought(text, own) for text in flags]


def _brought(text: str, own: Collection[str]) -> LoraSource:
    name, colon, weight = text.partition(":")
    if colon and name in own:
        raise InvalidRequestError(f"lora is {text!r}; expected --lora {name} --use-lora {name}:{weight}", "lora")
    if own and not set("=/.~\\") & set(text) and not Path(text).exists():
        raise InvalidRequestError(f"lora is {text!r}; with the model come {', '.join(own)}; or name a file", "lora")
    return LoraSource.parse(text)


class AdapterHashes:
    """What the adapters' files that requests may name hold, by name; each is read when it is first asked for."""

    def __init__(self, model: str, extras: Extras) -> None:
        folder = sources_in(Path(extras.lora_dir).expanduser()) if extras.lora_dir is not None else {}
        named = {source.name: source for source in wanted_sources(model, extras.lora)}
        self._sources = {**folder, **own_sources(model), **named}
        self._known: dict[str, str] = {}

    def get(self, name: str) -> str | None:
        """The file's SHA-256; a hub id as it is written; None where there is no such adapter."""
        source = self._sources.get(name)
        if source is not None and name not in self._known:
            local = Path(source.place).expanduser().exists()
            self._known[name] = file_hash(source.find()) if local else f"{source.place}:{source.weight_file}"
        return self._known.get(name)
