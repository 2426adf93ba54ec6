"""Sampling as a pure function of scores, seed and position."""

import torch

from interlace.stages.language.sampling import gumbel, noise_key, warp


def test_the_largest_of_scores_and_noise_is_a_sample_of_the_softmax() -> None:
    scores = torch.tensor([2.0, 1.0, 0.0, -1.0])
    keys = torch.tensor([noise_key(7, position) for position in range(40_000)])
    drawn = (scores + gumbel(keys, 4)).argmax(-1)
    shares = torch.bincount(drawn, minlength=4) / len(keys)
    assert (shares - scores.softmax(-1)).abs().max() < 0.01


def test_noise_depends_on_seed_and_position_alone() -> None:
    keys = [noise_key(seed, position) for seed in (0, 1, 2**32, 2**63) for position in range(500)]
    assert len(set(keys)) == len(keys)
    alone, beside = gumbel(torch.tensor([keys[3]]), 50), gumbel(torch.tensor(keys), 50)[3:4]
    assert torch.equal(alone, beside)
    assert gumbel(torch.tensor([0]), 50).abs().max() == 0, "greedy"


def test_each_row_has_its_own_temperature_top_k_and_top_p() -> None:
    scores = torch.tensor([[3.0, 2.0, 1.0, 0.0]] * 4)
    warped = warp(scores, torch.tensor([1.0, 2.0, 1.0, 1.0]), torch.tensor([0, 0, 2, 0]), torch.tensor([1, 1, 1, 0.7]))
    assert torch.equal(warped[0], scores[0])
    assert torch.equal(warped[1], scores[1] / 2)
    assert warped[2].isfinite().tolist() == [True, True, False, False]
    assert warped[3].isfinite().tolist() == [True, True, False, False], "0.64 is not yet 0.7; 0.88 is"
    least = warp(scores, torch.ones(4), torch.zeros(4).int(), torch.full((4,), 1e-6))
    assert least.isfinite().sum(-1).tolist() == [1, 1, 1, 1]
