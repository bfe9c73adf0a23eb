"""Scenes of six shapes in six colours, questions about them, and a model that answers: an experiment for tests.

    python tests/sort_of_clevr.py      trains from nothing and prints what came of it

After Santoro et al. 2017, https://arxiv.org/abs/1706.01427, section 4.2.1: of each shape, a circle or a square, it is
asked what it is, whether it is at the left and whether it is above; and, of others, which shape is nearest, which is
farthest, and how many there are of its kind.
"""

import sys

import keras
import numpy as np
from seeing_experiments import Clock, endless, fit

from kerasllm.models import TransformerConfig, VisionLanguageModel
from kerasllm.vision import ProjectorConfig, VisionConfig

COLOURS = np.array([(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0.6, 0), (0.5, 0.5, 0.5), (1, 1, 0)], "float32")
SIZE, RADIUS, KINDS = 64, 5, 6  # of questions, the first three of which are about a shape alone
IMAGE, FIRST_COLOUR, FIRST_KIND, FIRST_ANSWER = 1, 2, 8, 14
ANSWERS = ("circle", "square", "yes", "no", "1", "2", "3", "4", "5", "6")
VOCABULARY = FIRST_ANSWER + len(ANSWERS)


def scene(rng):
    """A picture float32 (SIZE, SIZE, 3), and the answers int (6 colours, KINDS)."""
    centres = []
    while len(centres) < 6:
        centre = rng.integers(RADIUS, SIZE - RADIUS, 2)
        if all(((centre - other) ** 2).sum() > (2.5 * RADIUS) ** 2 for other in centres):
            centres.append(centre)
    centres, squares = np.array(centres), rng.integers(0, 2, 6)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    pixels = np.ones((SIZE, SIZE, 3), "float32")
    for colour, (row, column), square in zip(COLOURS, centres, squares, strict=True):
        far, away = np.abs(rows - row), np.abs(columns - column)
        inside = np.maximum(far, away) <= RADIUS if square else far**2 + away**2 <= RADIUS**2
        pixels[inside] = colour
    distances = ((centres[:, None] - centres[None]) ** 2).sum(-1).astype("float64")
    np.fill_diagonal(distances, np.inf)
    nearest = squares[distances.argmin(1)]
    np.fill_diagonal(distances, -np.inf)
    farthest = squares[distances.argmax(1)]
    count = (squares[:, None] == squares[None]).sum(1)
    left, above = centres[:, 1] < SIZE / 2, centres[:, 0] < SIZE / 2
    answers = [squares, 3 - left, 3 - above, nearest, farthest, 3 + count]
    return 2 * pixels - 1, np.stack(answers, axis=1).astype("int32")


def rows(scenes, asked, rng):
    """Ids of some questions of each scene, their answers behind them: int32 (N, 3 asked)."""
    ids = np.empty((len(scenes), asked, 3), "int32")
    for row, (_, answers) in zip(ids, scenes, strict=True):
        chosen = rng.permutation(6 * KINDS)[:asked]
        colours, kinds = chosen // KINDS, chosen % KINDS
        row[:] = np.stack([FIRST_COLOUR + colours, FIRST_KIND + kinds, FIRST_ANSWER + answers[colours, kinds]], axis=1)
    return ids.reshape(len(scenes), -1)


def experiment(steps=3000, batch_size=32, scenes=9800, asked=12, verbose=2):
    """Trains a model, and measures shares of right answers to single questions about 200 other scenes."""
    clock, rng = Clock(), np.random.default_rng(0)
    keras.utils.set_random_seed(0)
    shown, others = ([scene(rng) for _ in range(count)] for count in (scenes, 200))
    vision = VisionConfig(SIZE, 8, 3, 96, 4, 384)
    config = TransformerConfig(VOCABULARY, 3, 96, 4, 384, max_length=128, positions="learned")
    model = VisionLanguageModel(config, vision, ProjectorConfig("linear"), IMAGE, attention="image")
    P = model.tokens_per_image

    def batches():
        while True:
            chosen = [shown[i] for i in rng.integers(len(shown), size=batch_size)]
            ids = np.concatenate([np.full((batch_size, P), IMAGE), rows(chosen, asked, rng)], axis=1).astype("int32")
            places = np.arange(1, ids.shape[1])  # of labels
            weight = np.tile((places >= P) & ((places - P) % 3 == 2), (batch_size, 1))
            pixels = np.stack([pixels for pixels, _ in chosen])
            yield {"pixel_values": pixels, "token_ids": ids[:, :-1]}, ids[:, 1:], weight.astype("float32")

    fit(model, endless(batches), steps, verbose=verbose)

    right = np.zeros((len(others), 6, KINDS), bool)
    pixels, answers = (np.stack(part) for part in zip(*others, strict=True))
    for colour in range(6):
        for kind in range(KINDS):
            question = np.array([[IMAGE] * P + [FIRST_COLOUR + colour, FIRST_KIND + kind]] * len(others), "int32")
            logits = model.predict({"token_ids": question, "pixel_values": pixels}, batch_size=100, verbose=0)
            right[:, colour, kind] = logits[:, -1].argmax(-1) - FIRST_ANSWER == answers[:, colour, kind]
    by_kind = right.mean(axis=(0, 1))
    shares = {
        "alone": float(by_kind[:3].mean()),
        "relations": float(by_kind[3:].mean()),
        "by_kind": by_kind.round(3).tolist(),
    }
    return {**shares, **clock.read()}


if __name__ == "__main__":
    print(experiment(*map(int, sys.argv[1:])))
