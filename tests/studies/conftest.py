"""What tests of studies share."""

import pytest

from phosphene.metrics import interval


@pytest.fixture
def few_draws(monkeypatch):
    """Intervals by resampling from three draws: what a study makes of them, and not how wide they are."""
    whole = interval.bootstrap
    monkeypatch.setattr(interval, "bootstrap", lambda *told, draws=0, **how: whole(*told, draws=3, **how))
