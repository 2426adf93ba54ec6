"""What generic rules can't know about the arguments of diffusers' and transformers' modules, as small tables.

Everything here is a hint that lets more calls share a forward: the first fusion of a kind is checked all the same.
"""

# Arguments without a row dimension, by name: number of dimensions in which they come so.
SHARED_ARGUMENTS: dict[str | tuple[str, str], int] = {
    "img_ids": 2,  # [tokens, 3]: FLUX, Chroma, Bria, LongCat, Ovis
    "txt_ids": 2,
    "image_rotary_emb": 2,  # [tokens, head_dim]: HunyuanDiT, CogVideoX, Allegro, ConsisID
    "rotary_embedding": 2,  # Stable Audio
    "image_rope": 2,
    "text_rope": 2,
    ("CosmosTransformer3DModel", "padding_mask"): 4,  # [1, 1, height, width]
}

# (class, argument) -> the dimension that holds the rows, where it isn't the first.
ROW_DIMS: dict[tuple[str, str], int] = {
    ("HiDreamImageTransformer2DModel", "encoder_hidden_states_llama3"): 1,  # [layers, rows, tokens, channels]
}

# Arguments that always carry rows: a first dimension of rows times n holds n entries a row (frames).
ROW_MULTIPLES = frozenset(
    {
        "encoder_hidden_states",
        "encoder_hidden_states_image",  # WAN's first and last frame
        "encoder_attention_mask",
        "timestep",
        "controlnet_cond",
        "sample",
    }
)

# (class, argument) -> dimensions of what a number is multiplied with: rows may have different ones.
SCALES: dict[tuple[str, str], int] = {
    ("ControlNetModel", "conditioning_scale"): 4,
    ("FluxControlNetModel", "conditioning_scale"): 3,
    ("SD3ControlNetModel", "conditioning_scale"): 3,
    ("QwenImageControlNetModel", "conditioning_scale"): 3,
}

# Attention processors that multiply what they add by their `scale`: rows may have different ones.
SCALED_BY_ROW = frozenset(
    {
        "FluxIPAdapterAttnProcessor",
        "IPAdapterAttnProcessor",
        "IPAdapterAttnProcessor2_0",
        "SD3IPAdapterJointAttnProcessor2_0",
    }
)

# class -> the argument, a list with one item a row, that it takes with each item in a list of its own, or without (as
# pipelines with a ControlNet give it): with it, so that calls are alike.
NESTED: dict[str, str] = {"QwenImageTransformer2DModel": "img_shapes"}

# class -> the dimension of its outputs that holds the rows, where it isn't the first.
OUTPUT_ROW_DIMS: dict[str, int] = {"ChatGLMModel": 1}  # Kolors: [tokens, rows, channels]

# Arguments that hold the entries of all rows one after the other -> the argument that must come along.
PACKED_ARGUMENTS: dict[str, str] = {"pixel_values": "image_grid_thw", "image_grid_thw": "image_grid_thw"}

# Arguments [rows, tokens, ...] of texts -> the masks, [rows, tokens], any of which lets shorter texts be padded.
TEXT_MASKS: dict[str, tuple[str, ...]] = {
    "encoder_hidden_states": ("encoder_hidden_states_mask", "encoder_attention_mask"),
    "input_ids": ("attention_mask",),
}

# Modules that take such a mask and are called without it when nothing is padded.
OPTIONAL_MASKS: dict[str, str] = {
    "QwenImageTransformer2DModel": "encoder_hidden_states_mask",
    "QwenImageControlNetModel": "encoder_hidden_states_mask",
}

# Modules that answer for all rows once, then for all rows again: with and without what conditions them.
BLOCK_OUTPUTS = frozenset({"Qwen2_5OmniToken2WavDiTModel"})

# Modules whose output has no dimension of rows where there is one row.
SQUEEZED_OUTPUTS = frozenset({"Qwen2_5OmniToken2WavBigVGANModel"})

# Arguments that a class takes and does not use.
UNUSED_ARGUMENTS = frozenset({("AutoencoderKL", "generator")})

# Lists with one item a row whose items may differ in length: the module pads and masks by itself.
RAGGED_ITEMS = frozenset({"cap_feats", "media_items"})  # Z-Image; encoders of the stages that see and hear

# What a ControlNet makes of the latents: new at every step, and nothing that tells one conditioning from another.
FROM_LATENTS = frozenset(
    {
        "down_block_additional_residuals",
        "mid_block_additional_residual",
        "down_intrablock_additional_residuals",
        "controlnet_block_samples",
        "controlnet_single_block_samples",
        "block_controlnet_hidden_states",
    }
)

# What a ControlNet or T2I-Adapter adds to a denoiser's call: calls without it share with zeros in its place.
CONTROLS: dict[str, frozenset[str]] = {
    "UNet2DConditionModel": frozenset(
        {
            "down_block_additional_residuals",
            "mid_block_additional_residual",
            "down_intrablock_additional_residuals",
        }
    ),
    "FluxTransformer2DModel": frozenset(
        {"controlnet_block_samples", "controlnet_single_block_samples", "controlnet_blocks_repeat"}
    ),
    "SD3Transformer2DModel": frozenset({"block_controlnet_hidden_states"}),
    "QwenImageTransformer2DModel": frozenset({"controlnet_block_samples"}),
}

# Modules whose rows have texts of one length, and why.
ONE_LENGTH: dict[str, str] = {
    "QwenImage21Transformer2DModel": "positions of the picture, and the cache of the text's keys, go by one length of "
    "text for all rows; calls with texts of one length share",
}

# Caches of keys and values, and their layers, whose tensors hold rows in their first dimension.
ROW_CACHES = frozenset(
    {
        "Flux2KVCache",
        "Flux2KVLayerCache",
        "GlmImageKVCache",
        "GlmImageLayerKVCache",
        "QwenImage21KVCache",
        "QwenImage21KVLayerCache",
    }
)

TEXT_BUCKET = 64  # texts are padded by less than this many tokens
