"""What is said of images: exact match, CIDEr, VQA's accuracy, and what vectors of images and texts find."""

import numpy as np
import pytest

from kerasllm.evaluation import caption_scores, cider, exact_match, matching_scores, vqa_accuracy

SAID = ["a cat sits on a red mat", "two dogs run", "a man on a horse", "a cat"]
WRITTEN = [
    ["a cat is on a red mat", "there is a cat on the mat"],
    ["two brown dogs run on grass", "dogs are running"],
    ["a man rides a horse"],
    ["a cat", "a grey cat"],
]


def test_cider_by_hand():
    """Two images of one word each: each word's weight is log 2, so that only unigrams are there, of cosine 1."""
    same = cider(["cat", "dog"], ["cat", "dog"])
    assert same.score == pytest.approx(100 * 10 * 0.25)
    assert cider(["dog", "cat"], ["cat", "dog"]).score == 0
    clipped = cider(["cat cat", "dog"], ["cat", "dog"])  # counts once of twice, and is longer by a word
    assert clipped.score == pytest.approx(100 * 10 * 0.25 * (0.5 * np.exp(-1 / 72) + 1) / 2)


def test_captions_that_say_more_score_more():
    scores = caption_scores(SAID, WRITTEN)
    assert scores.exact_match == 0.25 == exact_match(SAID, WRITTEN)
    best = caption_scores([several[0] for several in WRITTEN], WRITTEN)
    turned = caption_scores(SAID[1:] + SAID[:1], WRITTEN)
    assert best.cider.score > scores.cider.score > turned.cider.score
    assert best.bleu.score > scores.bleu.score
    assert set(scores.to_dict()) == {"captions", "exact_match", "bleu", "cider"} and "CIDEr-D" in str(scores)
    with pytest.raises(ValueError, match="two images at least"):
        cider(["a"], ["a"])


@pytest.mark.parity
def test_cider_is_that_of_its_authors():
    scorer = pytest.importorskip("pycocoevalcap.cider.cider_scorer").CiderScorer(n=4, sigma=6.0)
    for said, several in zip(SAID, WRITTEN, strict=True):
        scorer += (said, several)
    assert cider(SAID, WRITTEN).score == pytest.approx(100 * scorer.compute_score()[0], abs=1e-6)


def test_vqa_accuracy():
    """Of ten people n gave the answer: leaving out each in turn, min((n or n - 1) / 3, 1)."""
    for number, expected in ((0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)):
        assert vqa_accuracy(["Yes!"], [["yes"] * number + ["no"] * (10 - number)]) == pytest.approx(expected)
    assert vqa_accuracy(["the Two", "3.5", "1,000", "a dog"], ["2", "3.5", "1.000", "cat"]) == 0.75


def test_matching_in_both_directions():
    draw = np.random.default_rng(0)
    images = draw.normal(size=(50, 16))
    texts = np.repeat(images, 2, axis=0) + draw.normal(size=(100, 16)) * 0.7
    labels = np.repeat(np.arange(50), 2)
    scores = matching_scores(images, texts, np.arange(50), labels, ks=(1, 5, 50))
    cosines = texts @ images.T / np.linalg.norm(texts, axis=1)[:, None] / np.linalg.norm(images, axis=1)
    order = np.argsort(-cosines, axis=1)
    for k in (1, 5, 50):
        assert scores.text_to_image[k] == np.mean([labels[i] in order[i, :k] for i in range(100)])
    order = np.argsort(-cosines.T, axis=1)
    assert scores.image_to_text[1] == np.mean([labels[order[i, 0]] == i for i in range(50)])
    assert matching_scores(np.ones((5, 2)), np.ones((5, 2))).text_to_image[1] == 0
    with pytest.raises(ValueError, match="Nothing belongs to text 1"):
        matching_scores(np.eye(2), np.eye(2), [0, 1], [0, 7])
    with pytest.raises(ValueError, match=r"got \(2, 2\) and \(2, 3\)"):
        matching_scores(np.eye(2), np.ones((2, 3)))
