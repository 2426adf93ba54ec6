"""Trains the language model that expands a short idea ("a star", "something round and red") into a full prompt.

A sequence is the idea, <eos>, the prompt, <eos>: what the tokenizer makes of an idea is what generation starts from.
"""

import argparse
import random
import shutil
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from interlace.demo import MODELS
from interlace.demo.shapes import COLOURS, SHAPES
from training.captions import caption, place_words, with_article
from training.common import load_checkpoint
from training.run import Run
from training.scenes import Scene, random_scene
from training.words import tokenizer, vocabulary

MAX_LENGTH = 48
_ROUND = ("circle", "ring")
_SIZE_WORDS = {"small": ("small", "tiny"), "medium": ("medium",), "large": ("large", "big")}
_CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---
# Interlace demo-expand

A causal language model of {parameters:.2f} million parameters that expands a short idea ("a star", "something round and
red") into a full prompt for Interlace's demo image model. Trained from nothing on texts that `training/language.py`
makes. It knows {words} words, says nothing outside the image model's captions, and makes up what an idea leaves open.
An idea about anything else gets some prompt, but not a fitting one.
"""


def random_pair(rng: random.Random, *, telling: float = 0.0) -> tuple[str, str]:
    """An idea and a prompt that fits it. With `telling` up to 1, ideas say more: each thing said must be kept."""
    scene = random_scene(rng, 1 if rng.random() < 0.8 - 0.3 * telling else 2, plain_only=rng.random() < 0.95)
    return _idea(scene, rng, telling), caption(scene, rng, complete=True)


def _idea(scene: Scene, rng: random.Random, telling: float) -> str:
    def said(share: float) -> bool:
        return rng.random() < max(share, telling)

    behind = f" on {with_article(scene.background.colours[0])} background"
    told_behind = behind if scene.background.pattern == "plain" and said(0.2) else ""
    if len(scene.things) == 2:
        if not said(0.5):
            return rng.choice(("two things", "two shapes"))
        names = [f"{t.colour} {t.shape}" if said(0.5) else t.shape for t in scene.things]
        return " and ".join(map(with_article, names) if rng.random() < 0.5 else names) + told_behind
    thing = scene.things[0]
    if thing.shape in _ROUND and rng.random() < 0.4:
        about = f"something round and {thing.colour}", f"something {thing.colour} and round"
        return (rng.choice(about) if said(0.67) else "something round") + told_behind
    if rng.random() < 0.1:
        return rng.choice((f"something {thing.colour}{told_behind}", f"something{behind}", "one shape"))
    if (thing.shape, thing.colour) in (
        ("moon", "yellow"),
        ("heart", "red"),
        ("circle", "yellow"),
    ) and rng.random() < 0.5:
        return {"moon": "night sky", "heart": "love", "circle": "the sun"}[thing.shape]
    words = [
        *([rng.choice(_SIZE_WORDS[thing.size])] if said(0.25) else []),
        *(["<unk>"] if rng.random() < 0.1 else []),
        *([thing.colour] if said(0.5) else []),
        thing.shape,
    ]
    where = f" {place_words(scene.place)}" if scene.place and said(0.2) else ""
    name, lead = " ".join(words), rng.choice(("", "draw ", "a picture of ", "show ", None))
    return (name if lead is None else lead + with_article(name)) + where + told_behind


def ideas(count: int, seed: int) -> list[str]:
    """Short ideas, for an evaluation."""
    rng = random.Random(seed)
    return [random_pair(rng)[0] for _ in range(count)]


def build(vocab_size: int) -> LlamaForCausalLM:
    """The model, untrained. It may only say words of captions."""
    rng, said = random.Random(1), {"<eos>"}
    for _ in range(2000):
        said |= set(caption(random_scene(rng), rng, complete=True).replace(",", " ,").split())
    config = LlamaConfig(
        vocab_size=vocab_size, hidden_size=96, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=64, tie_word_embeddings=True, pad_token_id=0, bos_token_id=2,
        eos_token_id=3,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.generation_config.suppress_tokens = [i for i, word in enumerate(vocabulary()) if word not in said]
    model.generation_config.max_new_tokens = 32
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 3, 0
    return model


def said_again(logits: torch.Tensor, tokens: torch.Tensor, labels: torch.Tensor, colours: torch.Tensor) -> torch.Tensor:
    """The loss for colours that were said already where another is due: a scene has every colour once.

    `logits` are [rows, tokens, words], `tokens` and `labels` [rows, tokens], `colours` the colours' tokens.
    Source: unlikelihood training, Welleck et al. 2019.
    """
    said = tokens[:, :, None] == colours
    wrong = (said.cumsum(1) > 0) & ~said
    likely = (logits[:, :-1].softmax(2)[:, :, colours] * wrong[:, 1:]).sum(2)
    return -torch.log1p(-likely[torch.isin(labels[:, 1:], colours)].clamp(max=0.999)).mean()


def train(folder: Path, *, minutes: float | None, num_steps: int, batch: int, peak: float, seed: int) -> None:
    """Train or resume in `folder`."""
    torch.manual_seed(seed)
    words = tokenizer(MAX_LENGTH)
    model, colours = build(len(words)), torch.tensor(words.convert_tokens_to_ids(list(COLOURS)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=0.01)
    run = Run(folder, model, optimizer, num_steps=num_steps, minutes=minutes, every=50)
    for _ in run.steps(peak):
        rng = random.Random(seed * 10**9 + run.step)
        rows = [[words(part).input_ids for part in random_pair(rng, telling=rng.random())] for _ in range(batch)]
        longest = max(len(a) + len(b) for a, b in rows)
        tokens, labels = torch.zeros(batch, longest, dtype=torch.long), torch.full((batch, longest), -100)
        for i, (a, b) in enumerate(rows):
            tokens[i, : len(a) + len(b)] = torch.tensor(a + b)
            labels[i, len(a) : len(a) + len(b)] = torch.tensor(b)
        output = model(input_ids=tokens, labels=labels)
        run.learn(output.loss + said_again(output.logits, tokens, labels, colours))


def export(folder: Path, target: Path) -> None:
    """Write the trained model and its tokenizer to `target`, float16 on disk."""
    words = tokenizer(MAX_LENGTH)
    model, state = build(len(words)), load_checkpoint(folder / "checkpoint.pt")
    assert state is not None, f"{folder} holds no checkpoint.pt"
    model.load_state_dict(state["model"])
    shutil.rmtree(target, ignore_errors=True)
    model.to(torch.float16).save_pretrained(target, safe_serialization=True)
    words.save_pretrained(target)
    (target / "model.safetensors").chmod(0o644)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    (target / "README.md").write_text(_CARD.format(parameters=millions, words=len(words) - 4), encoding="utf-8")


@torch.no_grad()
def expand(model: Path, texts: list[str], *, seed: int = 0) -> list[str]:
    """A full prompt for each idea."""
    torch.manual_seed(seed)
    words = AutoTokenizer.from_pretrained(model)
    language = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    prompts = []
    for text in texts:
        tokens = words(text, return_tensors="pt").input_ids
        output = language.generate(
            tokens, attention_mask=torch.ones_like(tokens), do_sample=True, top_k=0, top_p=0.95, temperature=0.9
        )
        prompts.append(words.decode(output[0, tokens.shape[1] :], skip_special_tokens=True))
    return prompts


def fits(idea: str, prompt: str) -> bool:
    """Whether a prompt keeps the colours and shapes that an idea names, and is of something round where it says so."""
    said = prompt.split()
    named = [word for word in idea.split() if word in COLOURS or word in SHAPES]
    return all(word in said for word in named) and ("round" not in idea.split() or any(word in said for word in _ROUND))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--folder", type=Path, default=Path("out/training/language"))
    parser.add_argument("--export", type=Path, default=MODELS["demo-expand"].path)
    parser.add_argument("--minutes", type=float, help="train (on) for this long instead of --num-steps")
    parser.add_argument("--num-steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train(args.folder, minutes=args.minutes, num_steps=args.num_steps, batch=args.batch, peak=args.learning_rate,
          seed=args.seed)  # fmt: skip
    export(args.folder, args.export)


if __name__ == "__main__":
    main()
