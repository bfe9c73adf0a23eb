"""Models that see learn what is shown, from nothing, on a CPU."""

import pytest

pytestmark = pytest.mark.soak


def test_handwritten_strips_are_read():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed, whose digits these are")
    import digit_strips

    found = digit_strips.experiment(verbose=0)
    assert found["exact"] >= 0.8
    assert found["exact_of_shuffled"] < 0.02
