# %% [markdown]
# # Edit a picture
# An editing model takes a picture beside the prompt.

# %%
from interlace import Omni

draw, edit = Omni("demo"), Omni("demo-edit")
before = draw.generate("a red circle on a white background", num_inference_steps=8, seed=1)[0].image

# %%
after = edit.generate("make the circle blue", image=before, num_inference_steps=8)[0]
after.save("blue.png")

# %% [markdown]
# The same in a batch: each prompt with its own picture, or a path to one.

# %%
outputs = edit.generate(
    [
        {"prompt": "make the circle green", "image": before},
        {"prompt": "make the background black", "image": "blue.png"},
    ],
    num_inference_steps=8,
)
for name, one in zip(("green", "black"), outputs, strict=True):
    one.save(f"{name}.png")

# %%
draw.close()
edit.close()
