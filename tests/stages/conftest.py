"""What tests of stages share."""

import pytest

from interlace.engine.policy.cost import CostModel


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forwards take all rows that there are, whatever they were measured to cost on a busy machine."""
    monkeypatch.setattr(CostModel, "best_rows", lambda self, shape, available: available)
