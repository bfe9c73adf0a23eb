"""Scenes of six shapes in six colours, questions about them, and a model that answers: an experiment for tests.

    python tests/sort_of_clevr.py      trains from nothing and prints what came of it

After Santoro et al. 2017, https://arxiv.org/abs/1706.01427, section 4.2.1: of each shape, a circle or a square, it is
asked what it is, whether it is at the left and whether it is above; and, of others, which shape is nearest, which is
farthest, and how many there are of its kind.
"""

import itertools
import sys

import keras
import numpy as np
from seeing_experiments import Clock, endless, fit

from kerasllm.models import TransformerConfig, VisionLanguageModel
from kerasllm.vision import ProjectorConfig, VisionConfig

COLOURS = np.array([(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0.6, 0), (0.5, 0.5, 0.5), (1, 1, 0)], "float32")
SIZE, RADIUS = 64, 5
KINDS, ALONE = 6, 3  # of questions, and how many of them, the first, are about a shape alone
ASKED = 18  # questions in a row
IMAGE, FIRST_COLOUR, FIRST_KIND, FIRST_ANSWER = 1, 2, 8, 14
ANSWERS = ("circle", "square", "yes", "no", "1", "2", "3", "4", "5", "6")
VOCABULARY = FIRST_ANSWER + len(ANSWERS)


def scene(rng):
    """A picture uint8 (SIZE, SIZE, 3), and the ids of the answers, int (6 colours, KINDS)."""
    centres = []
    while len(centres) < 6:
        centre = rng.integers(RADIUS, SIZE - RADIUS, 2)
        if all(((centre - other) ** 2).sum() > (2.5 * RADIUS) ** 2 for other in centres):
            centres.append(centre)
    centres, squares = np.array(centres), rng.integers(0, 2, 6)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    pixels = np.full((SIZE, SIZE, 3), 255, "uint8")
    for colour, (row, column), square in zip(COLOURS, centres, squares, strict=True):
        far, away = np.abs(rows - row), np.abs(columns - column)
        inside = np.maximum(far, away) <= RADIUS if square else far**2 + away**2 <= RADIUS**2
        pixels[inside] = 255 * colour
    distances = ((centres[:, None] - centres[None]) ** 2).sum(-1).astype("float64")
    np.fill_diagonal(distances, np.inf)
    nearest = squares[distances.argmin(1)]
    np.fill_diagonal(distances, -np.inf)
    farthest = squares[distances.argmax(1)]
    count = (squares[:, None] == squares[None]).sum(1)
    left, above = centres[:, 1] < SIZE / 2, centres[:, 0] < SIZE / 2
    answers = [squares, 3 - left, 3 - above, nearest, farthest, 3 + count]
    return pixels, FIRST_ANSWER + np.stack(answers, axis=1).astype("int32")


def scenes_of(count, rng):
    """Pictures uint8 (count, SIZE, SIZE, 3), and the ids of answers, int32 (count, 6 colours, KINDS)."""
    return tuple(map(np.stack, zip(*(scene(rng) for _ in range(count)), strict=True)))


def questions(count, kinds, rng):
    """Some of the questions about each of so many scenes, none twice: colours and kinds int (count, ASKED)."""
    all_of_them = np.tile(np.arange(6 * kinds), (count, 1))
    return np.divmod(rng.permuted(all_of_them, axis=1)[:, :ASKED], kinds)


def experiment(steps=1400, batch_size=32, scenes=20000, seed=0, verbose=2):
    """Trains a model, and measures shares of right answers to all questions about 200 other scenes.

    The answers are not in the text, where later questions would see them. In the first steps it is asked about shapes
    alone: before a model finds the shape that a question is about, all others only tell it to guess.
    """
    clock, rng = Clock(), np.random.default_rng(seed)
    keras.utils.set_random_seed(seed)
    shown, others = (scenes_of(count, np.random.default_rng([seed, count])) for count in (scenes, 200))
    vision = VisionConfig(SIZE, 8, 2, 64, 4, 256, qk_norm=True)
    config = TransformerConfig(VOCABULARY, 3, 64, 4, 256, max_length=128, positions="learned", qk_norm=True)
    model = VisionLanguageModel(config, vision, ProjectorConfig("linear"), IMAGE, attention="image")
    P = model.tokens_per_image

    def inputs(pixels, colours, kinds):
        asked = np.stack([FIRST_KIND + kinds, FIRST_COLOUR + colours], axis=2).reshape(len(pixels), -1)
        ids = np.concatenate([np.full((len(pixels), P), IMAGE), asked], axis=1).astype("int32")
        return {"pixel_values": pixels / np.float32(127.5) - 2, "token_ids": ids}  # white is 0

    def batches():
        for step in itertools.count():
            chosen = rng.integers(scenes, size=batch_size)
            colours, kinds = questions(batch_size, ALONE if step < steps // 4 else KINDS, rng)
            x = inputs(shown[0][chosen], colours, kinds)
            labels, weight = np.zeros_like(x["token_ids"]), np.zeros(x["token_ids"].shape, "float32")
            labels[:, P + 1 :: 2], weight[:, P + 1 :: 2] = shown[1][chosen[:, None], colours, kinds], 1
            yield x, labels, weight

    fit(model, endless(batches), steps, verbose=verbose)

    pixels, answers = others
    right = np.zeros(answers.shape, bool)
    every = np.random.default_rng(1).permuted(np.tile(np.arange(6 * KINDS), (len(pixels), 1)), axis=1)
    places = np.arange(len(pixels))[:, None]
    for asked in np.split(every, 6 * KINDS // ASKED, axis=1):
        colours, kinds = np.divmod(asked, KINDS)
        logits = model.predict(inputs(pixels, colours, kinds), batch_size=50, verbose=0)[:, P + 1 :: 2]
        right[places, colours, kinds] = logits.argmax(-1) == answers[places, colours, kinds]
    by_kind = right.mean(axis=(0, 1))
    shares = {
        "alone": float(by_kind[:ALONE].mean()),
        "relations": float(by_kind[ALONE:].mean()),
        "by_kind": by_kind.round(3).tolist(),
    }
    return {**shares, **clock.read()}


if __name__ == "__main__":
    print(experiment(*map(int, sys.argv[1:])))
