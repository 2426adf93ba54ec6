"""Which token comes next: a pure function of the scores, the request's seed and the position in its text.

Knows nothing of batches. Noise is counted, not drawn: token v at position p of a request with seed s gets the Gumbel
noise hash(s, p, v), so that neighbours, their number and the order of calls change nothing. Largest score plus noise
is a sample of the softmax (the Gumbel-max trick).
"""

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF


def noise_key(seed: int, position: int) -> int:
    """32 bits, never 0 (0 stands for greedy), from a seed of any size and a position."""
    key = 0
    for word in (seed & _MASK, (seed >> 32) & _MASK, position):
        key = _mix(key ^ word) + 0x9E3779B9 & _MASK
    return _mix(key) or 1


def gumbel(keys: Tensor, vocabulary: int) -> Tensor:
    """Noise for each key and token: [rows] int64 -> [rows, vocabulary] float32; zero where the key is 0."""
    tokens = torch.arange(vocabulary, device=keys.device, dtype=torch.int64)
    bits = _mix_tensor(_mix_tensor(tokens)[None] ^ keys[:, None])
    uniform = ((bits >> 9).double() + 0.5) / 2**23  # strictly between 0 and 1
    return torch.where(keys[:, None] == 0, 0.0, -(-uniform.log()).log()).float()


def warp(scores: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """Scores [rows, vocabulary] with each row's own temperature, top-k (0: off) and top-p (1: off) [rows].

    One sort serves both; the most likely token always stays.
    """
    scores = scores / temperature[:, None]
    ordered, order = scores.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities  # what all likelier tokens have together
    rank = torch.arange(scores.shape[-1], device=scores.device)
    limit = torch.where(top_k <= 0, scores.shape[-1], top_k)
    drop = (rank[None] >= limit[:, None]) | (before >= top_p[:, None])
    drop[:, 0] = False
    return scores.masked_fill(drop.scatter(-1, order, drop), float("-inf"))


def _mix(value: int) -> int:
    """The finaliser of a 32-bit hash with full avalanche (lowbias32, https://nullprogram.com/blog/2018/07/31/)."""
    value = (value ^ value >> 16) * 0x7FEB352D & _MASK
    value = (value ^ value >> 15) * 0x846CA68B & _MASK
    return value ^ value >> 16


def _mix_tensor(value: Tensor) -> Tensor:
    """`_mix` over int64 tensors of 32-bit values; products wrap modulo 2**64, which keeps the low 32 bits right."""
    value = ((value ^ (value >> 16)) * 0x7FEB352D) & _MASK
    value = ((value ^ (value >> 15)) * 0x846CA68B) & _MASK
    return value ^ (value >> 16)
