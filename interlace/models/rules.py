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
ROW_MULTIPLES = frozenset({"encoder_hidden_states", "encoder_attention_mask", "timestep", "controlnet_cond", "sample"})

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

# Arguments that a class takes and does not use.
UNUSED_ARGUMENTS = frozenset({("AutoencoderKL", "generator")})

# Lists with one item a row whose items may differ in length: the module pads and masks by itself.
RAGGED_ITEMS = frozenset({"cap_feats"})  # Z-Image

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

TEXT_BUCKET = 64  # texts are padded by less than this many tokens
