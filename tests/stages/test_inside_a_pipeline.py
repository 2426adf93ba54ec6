"""GLM-Image, which holds a language model: its text is one call, its pictures are stock diffusers'."""

import numpy as np
import pytest

from interlace import Engine
from tests.zoo import FAMILIES


@pytest.mark.slow
def test_generation_inside_a_pipeline_runs_alone_and_pictures_are_those_of_stock_diffusers() -> None:
    family = FAMILIES["glm-image"]
    with Engine(family.build(), max_num_seqs=8) as engine:
        together = engine.map(family.requests()[:3])
        stats = engine.stats()
    stock = family.build()
    alone = [stock(**request) for request in family.requests()[:3]]
    assert all(np.abs(one.images - other.images).max() < 1e-4 for one, other in zip(together, alone, strict=True))
    assert stats["forwards"]["vision_language_encoder.generate"] == 3
    reasons = {label.split()[0]: why for label, why in stats["unfused"].items()}
    assert reasons["vision_language_encoder.generate"] == "generation keeps state between its forwards"
    assert "transformer" not in reasons, "its cache of keys and values is shared by rows"
