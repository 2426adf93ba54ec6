# %% [markdown]
# # First pictures
# The built-in model needs no download: coloured shapes, 128 pixels a side. Any other FLUX model is called the same way.

# %%
from interlace import Omni

omni = Omni("demo")

# %%
output = omni.generate("a red circle", num_inference_steps=8, seed=7)[0]
output  # noqa: B018  in a notebook, a cell that ends in an output shows its picture

# %%
output.save("circle.png")

# %% [markdown]
# ## Many at once
# Requests share forwards, whatever their steps, guidance, seeds and sizes.

# %%
outputs = omni.generate(
    ["a blue star", {"prompt": "a green heart", "seed": 3, "num_inference_steps": 12}, "a yellow moon on black"],
    {"num_inference_steps": 8, "guidance_scale": 1.0},
)
for number, one in enumerate(outputs):
    one.save(f"many-{number}.png")

# %% [markdown]
# ## What fails is said
# A single text raises its error, as `pipeline("...")` does. Of several requests each output has its own.

# %%
good, bad = omni.generate(["a red circle", {"prompt": "a blue star", "height": 100}], num_inference_steps=4)
print(bad.error)  # height 100 is not a multiple of 16; try 96 or 112

# %%
omni.close()
