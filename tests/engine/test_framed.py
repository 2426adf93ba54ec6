"""Sound of different lengths sampled in shared forwards of Qwen2.5-Omni's own DiT, by its own stock loop."""

import torch
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniDiTConfig
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniToken2WavDiTModel

from interlace import Engine


def test_the_stock_sampling_loop_shares_forwards_at_other_steps_and_lengths() -> None:
    torch.manual_seed(0)
    config = Qwen2_5OmniDiTConfig(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, head_dim=16, emb_dim=16,
                                  num_embeds=64, mel_dim=16, enc_emb_dim=8, enc_dim=8, enc_channels=[16] * 4 + [48],
                                  enc_attention_channels=8, enc_se_channels=8, block_size=24, look_ahead_layers=[1],
                                  look_backward_layers=[0, 2])  # fmt: skip
    dit = Qwen2_5OmniToken2WavDiTModel._from_config(config, attn_implementation="sdpa").eval()
    generator = torch.Generator().manual_seed(1)
    voice, mel = torch.randn(1, 8, generator=generator), torch.randn(1, 40, 16, generator=generator)

    def sample(codes: torch.Tensor, seed: int, num_steps: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return dit.sample(voice, mel, codes, num_steps=num_steps)

    requests = [
        {"codes": torch.randint(0, 60, (1, length), generator=generator), "seed": seed, "num_steps": 5 + seed}
        for seed, length in enumerate((50, 50, 47, 49, 30))
    ]
    alone = [sample(**request) for request in requests]
    with Engine.over(sample, {"dit": dit}, max_batch_rows=8) as engine:
        together = [*engine.map(requests), *engine.map(requests)]
        stats = engine.stats()
    for one, other in zip([*alone, *alone], together, strict=True):
        assert one.shape == other.shape
        assert float(one.abs().max()) > 0.1
        assert (one - other).abs().max() < 1e-4
    assert not stats["unfused"]
    assert max(stats["widths"]["dit"]) >= 4, stats["widths"]
    assert "_create_block_diff" not in vars(dit)
