"""engine/pipeline/randomness.py: who draws from a request's generators."""

import torch
from torch.fx.experimental.proxy_tensor import make_fx

from interlace.engine.pipeline.randomness import Randomness, set_current, wraps


def test_what_a_compiler_traces_draws_from_nobody() -> None:
    """Its patterns begin with such a trace, at the first compilation in a process, and know no generator."""
    wraps.open()
    try:
        set_current(Randomness(seed=1))
        traced = make_fx(lambda x: x[torch.randperm(x.shape[0])] + torch.rand_like(x), tracing_mode="fake")(
            torch.ones(4)
        )
        assert [node.target for node in traced.graph.nodes if node.op == "get_attr"] == []
        assert torch.rand(3).equal(torch.rand(3, generator=torch.Generator().manual_seed(1)))
    finally:
        set_current(None)
        wraps.close()
