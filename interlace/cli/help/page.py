"""Help that fits a screen: `--help` shows the flags that matter, `--help-all` every one, in groups."""

from collections.abc import Sequence

from attrs import evolve
from cyclopts import App
from cyclopts.help import DefaultFormatter, HelpEntry, HelpPanel
from rich.console import Console, ConsoleOptions

from interlace.cli.help.names import OTHER_NAMES

ALL = "--help-all"
# Of commands with very many flags; of others all are shown.
MATTER = {
    "t2i": ("prompt", "prompts-file", "output-dir", "model-name", "lora", "num-inference-steps", "height", "width",
            "guidance-scale", "negative-prompt", "num-images", "seed", "max-num-seqs", "torch-dtype", "device",
            "overwrite", "dry-run"),
    "edit": ("image", "prompt", "input", "output-dir", "model-name", "lora", "num-inference-steps", "height", "width",
             "guidance-scale", "num-images", "seed", "max-num-seqs", "torch-dtype", "device", "overwrite", "dry-run"),
    "t2v": ("prompt", "prompts-file", "image", "output-dir", "output-format", "model-name", "num-frames", "seconds",
            "fps", "num-inference-steps", "height", "width", "guidance-scale", "negative-prompt", "num-images", "seed",
            "max-num-seqs", "torch-dtype", "device", "overwrite", "dry-run"),
    "t2a": ("prompt", "prompts-file", "output-dir", "output-format", "model-name", "seconds", "num-inference-steps",
            "guidance-scale", "negative-prompt", "num-images", "seed", "max-num-seqs", "torch-dtype", "device",
            "overwrite", "dry-run"),
    "serve": ("model-name", "host", "port", "api-key", "api-key-file", "max-num-seqs", "torch-dtype", "device", "lora",
              "edit-model", "num-gpus", "memory-utilization", "max-queued-requests", "deploy-config"),
}  # fmt: skip
_SHORTEST = {own: name for name, own in OTHER_NAMES.items() if len(name) > 1}
_LETTERS = {own: name for name, own in OTHER_NAMES.items() if len(name) == 1}


class BriefFormatter(DefaultFormatter):
    """Shows those entries of a panel that matter, under one heading; all of them, in their groups, when told to."""

    def __init__(self, matter: Sequence[str]) -> None:
        super().__init__()
        self.matter = frozenset(f"--{name}" for name in matter)
        self.shows_all = False

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        if panel.format == "parameter":
            panel = panel.copy(entries=[_with_other_names(entry) for entry in panel.entries])
            if not self.shows_all:
                kept = [entry for entry in panel.entries if self._matters(entry)]
                panel = panel.copy(entries=kept, description=None)
        super().__call__(console, options, panel)

    def _matters(self, entry: HelpEntry) -> bool:
        return not self.matter or entry.positional_label is not None or bool(self.matter.intersection(entry.names))


def _with_other_names(entry: HelpEntry) -> HelpEntry:
    own = next((name.lstrip("-").replace("-", "_") for name in entry.positive_names), "")
    names, shorts = entry.positive_names, entry.positive_shorts
    if own in _SHORTEST and f"--{_SHORTEST[own]}" not in names:
        names = (f"--{_SHORTEST[own]}", *names)
    if own in _LETTERS:
        shorts = (f"-{_LETTERS[own]}", *shorts)
    return evolve(entry, positive_names=names, positive_shorts=shorts)


def formatters(app: App) -> dict[str, BriefFormatter]:
    """Gives every command its formatter."""
    found = {}
    for name in app:
        if not name.startswith("-"):
            found[name] = app[name].help_formatter = BriefFormatter(MATTER.get(name, ()))
    return found


def split_all(tokens: Sequence[str]) -> tuple[list[str], bool]:
    """`--help-all` as `--help`, and whether it was there."""
    end = list(tokens).index("--") if "--" in tokens else len(tokens)
    head, tail = list(tokens[:end]), list(tokens[end:])
    return ["--help" if token == ALL else token for token in head] + tail, ALL in head
