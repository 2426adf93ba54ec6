"""What the denoiser is trained on: latents of scenes and edits from disk, with texts and what they ask for."""

import pickle
import random
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import torch

from training.captions import caption, usual_background
from training.common import falling
from training.scenes import Scene, hardness
from training.words import MAX_TOKENS

EDITS_FROM = 0.25  # of the training
SHORT_SHARE = 0.3  # of captions
NEW_OUTLINES = 3  # how much oftener edits that draw one are shown than others
OTHER_SHARE = 0.16  # of batches of other sizes than 128x128


class Batch(NamedTuple):
    """Texts with the latents [rows, channels, height, width] and the scenes that they ask for.

    Edits have those of the pictures before, too.
    """

    texts: list[str]
    latents: torch.Tensor
    scenes: list[Scene]
    before: torch.Tensor | None = None
    scenes_before: list[Scene] | None = None


class _Picks:
    """Some scenes of a shard, by their numbers: what is hard to draw comes more often."""

    def __init__(self, numbers: Sequence[int], weights: Iterable[int]) -> None:
        self._numbers, self._until = numbers, list(accumulate(weights))

    def __len__(self) -> int:
        return len(self._numbers)

    def draw(self, rng: random.Random, count: int) -> list[int]:
        """So many numbers of scenes, some of them perhaps twice."""
        return rng.choices(self._numbers, cum_weights=self._until, k=count)


def _hardest(scene: Scene) -> int:
    return max((hardness(thing) for thing in scene.things), default=1)


def _hardest_edit(before: Scene, after: Scene) -> int:
    """Outlines that the picture before does not have are harder to draw than those that stay."""
    outlines = {(thing.shape, thing.size) for thing in before.things}
    new = any((thing.shape, thing.size) not in outlines for thing in after.things)
    return _hardest(after) * (NEW_OUTLINES if new else 1)


class Shards:
    """The latents on disk. New shards are noticed while the training runs."""

    def __init__(self, folder: Path, *, easy_share: float, edit_share: float, other_share: float = OTHER_SHARE) -> None:
        self._easy_share, self._edit_share, self._other_share = easy_share, edit_share, other_share
        self._folder, self._shards = folder, dict[str, dict[str, Any]]()
        self.mean, self.std = 0.0, 1.0

    def refresh(self) -> None:
        """Read what is new; the first shard fixes the latents' mean and standard deviation."""
        for path in sorted(self._folder.glob("*.pt")):
            if path.name not in self._shards:
                shard = torch.load(path, weights_only=False)
                shard["scenes"], shard["scenes_before"], shard["scenes_after"] = pickle.loads(shard["scenes"])
                scenes = shard["scenes"]
                kinds = {
                    "single": [i for i, scene in enumerate(scenes) if len(scene.things) == 1],
                    "several": [i for i, scene in enumerate(scenes) if len(scene.things) > 1],
                    "usual": [i for i, scene in enumerate(scenes) if scene.background == usual_background(scene)],
                }
                kinds["easy"] = [i for i in kinds["single"] if scenes[i].background.pattern == "plain"]
                shard["kinds"] = {
                    kind: _Picks(numbers, (_hardest(scenes[i]) for i in numbers)) for kind, numbers in kinds.items()
                }
                pairs = zip(shard["scenes_before"], shard["scenes_after"], strict=True)
                shard["edits"] = _Picks(range(len(shard["instructions"])), (_hardest_edit(*pair) for pair in pairs))
                if not self._shards:
                    self.mean, self.std = float(shard["latents"].float().mean()), float(shard["latents"].float().std())
                self._shards[path.name] = shard

    def batch(self, rng: random.Random, count: int, progress: float) -> Batch:
        """Texts with what they ask for. At first single things on plain backgrounds, no edits."""
        edit = progress > EDITS_FROM and rng.random() < self._edit_share
        shards = self._of_one_kind(rng)
        shard = rng.choices(shards, [len(shard["before" if edit else "latents"]) for shard in shards])[0]
        tokens = self._tokens(shard)
        rows = max(round(count * (64 + MAX_TOKENS) / (tokens * (1 + edit) + MAX_TOKENS)), 4)
        if edit:
            picks = shard["edits"].draw(rng, rows)
            texts, scenes, scenes_before = (
                [shard[name][i] for i in picks] for name in ("instructions", "scenes_after", "scenes_before")
            )
            after, before = self._scale(shard["after"][picks]), self._scale(shard["before"][picks])
            return Batch(texts, after, scenes, before, scenes_before)
        easy = rng.random() < max(falling(progress, 0.25, 0.65), self._easy_share)
        short = not easy and bool(shard["kinds"]["usual"]) and rng.random() < SHORT_SHARE
        kinds = ("usual",) if short else ("easy",) if easy else ("several", "several", "several", "single", "single")
        picks = [shard["kinds"][rng.choice(kinds)].draw(rng, 1)[0] for _ in range(rows)]
        scenes = [shard["scenes"][i] for i in picks]
        texts = [caption(scene, rng, short=short) for scene in scenes]
        return Batch(texts, self._scale(shard["latents"][picks]), scenes)

    def _of_one_kind(self, rng: random.Random) -> list[dict[str, Any]]:
        """The shards of 128x128, or those of all other sizes, by what there is and their share."""
        base, others = list[dict[str, Any]](), list[dict[str, Any]]()
        for _, shard in sorted(self._shards.items()):
            (base if shard["latents"].shape[-2:] == (16, 16) else others).append(shard)
        return others if others and (not base or rng.random() < self._other_share) else base

    def is_common(self, latents: torch.Tensor) -> bool:
        """Whether several shards are of the size of these latents."""
        return sum(shard["latents"].shape[-2:] == latents.shape[-2:] for shard in self._shards.values()) > 2

    @staticmethod
    def _tokens(shard: dict[str, Any]) -> int:
        return shard["latents"][0, 0].numel() // 4

    def _scale(self, latents: torch.Tensor) -> torch.Tensor:
        return (latents.float() - self.mean) / self.std
