"""Models that see learn what is shown, from nothing, on a CPU: by emoji_names.py and digit_strips.py."""

import emoji_names
import pytest

pytestmark = pytest.mark.soak


@pytest.mark.skipif(not emoji_names.FOLDER.is_dir(), reason="the emoji are not there")
def test_emoji_learn_their_names():
    """Names of drawings in a third style, which have been seen in two others alone."""
    found = emoji_names.experiment(verbose=0)
    assert found["recall_at_5"] >= 0.7
    assert found["exact_name"] >= 0.6
    assert found["exact_name"] > found["nearest_pixels"]
    assert max(found["exact_name_of_shuffled"], found["exact_name_of_blank"]) < 0.02
    assert found["minutes"] < 60


def test_handwritten_strips_are_read():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed, whose digits these are")
    import digit_strips

    found = digit_strips.experiment(verbose=0)
    assert found["exact"] >= 0.9
    assert found["exact_of_shuffled"] < 0.02
