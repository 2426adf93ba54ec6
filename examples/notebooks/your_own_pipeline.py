# %% [markdown]
# # Around a pipeline that you already have
# `Engine` takes any loaded pipeline of diffusers, and the pipeline's own arguments.

# %%
import torch
from diffusers import DiffusionPipeline

from interlace import Engine
from interlace.demo import MODELS

pipeline = DiffusionPipeline.from_pretrained(MODELS["demo"].path, torch_dtype=torch.float32)
common = {"height": 128, "width": 128, "max_sequence_length": 24, "num_inference_steps": 8}

# %%
engine = Engine(pipeline, max_num_seqs=8)
results = engine.map(
    [
        dict(prompt="a red circle", generator=torch.Generator().manual_seed(1), **common),
        dict(prompt="a blue star", generator=torch.Generator().manual_seed(2), **common),
    ]
)
for number, result in enumerate(results):
    result.images[0].save(f"own-{number}.png")

# %% [markdown]
# How many forwards there were, and of how many rows:

# %%
stats = engine.stats()
print(stats["forwards"], stats["rows"])
engine.close()
