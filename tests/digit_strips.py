"""Strips of handwritten digits, and a model that reads them: data and an experiment for tests.

    python tests/digit_strips.py       trains from nothing and prints what came of it

The digits are scikit-learn's, 8 x 8 pixels; those of the strips that are read have not been in any that was trained on.
"""

import sys

import keras
import numpy as np
from scipy.ndimage import affine_transform
from seeing_experiments import Clock, endless, fit
from sklearn.datasets import load_digits

import kerasllm
from kerasllm.models import TransformerConfig, VisionLanguageModel
from kerasllm.tokenizers import Tokenizer
from kerasllm.vision import ProjectorConfig, VisionConfig

DIGITS, HEIGHT, WIDTH = 5, 12, 56
UNSEEN = 397  # the last of 1,797 digits
IMAGE = "<|image|>"


def varied(digit, rng):
    """A digit turned, stretched and slanted a little by chance."""
    change = np.eye(2) + rng.uniform(-0.12, 0.12, (2, 2))
    return affine_transform(digit, change, 3.5 - change @ (3.5, 3.5), order=1)


def strips(count, digits, labels, rng, varied=lambda digit, rng: digit):
    """Strips float32 (count, HEIGHT, WIDTH, 1) of digits, each moved by chance, and what stands there, list of str."""
    pixels, texts = np.full((count, HEIGHT, WIDTH, 1), -1.0, "float32"), []
    for strip in pixels:
        chosen = rng.integers(len(digits), size=DIGITS)
        for place, number in enumerate(chosen):
            top, left = rng.integers(0, 5), 11 * place + rng.integers(0, 4)
            strip[top : top + 8, left : left + 8, 0] = varied(digits[number], rng) / 8 - 1
        texts.append("".join(str(labels[number]) for number in chosen))
    return pixels, texts


def experiment(steps=1200, batch_size=64, verbose=2):
    """Trains a model, and measures how often it reads an unseen strip without a mistake: a dict of shares."""
    clock, rng = Clock(), np.random.default_rng(0)
    keras.utils.set_random_seed(0)
    data = load_digits()
    tokenizer = Tokenizer.train(["0123456789"], kind="char", special_tokens=[IMAGE], progress=False)
    (image_id,) = tokenizer.encode(IMAGE, parse_special=True)
    vision = VisionConfig(WIDTH, 4, 3, 64, 4, 256, channels=1)
    config = TransformerConfig(tokenizer.vocab_size, 2, 64, 4, 256, max_length=64, positions="learned")
    model = VisionLanguageModel(config, vision, ProjectorConfig("mlp"), image_id)
    P = model.tokens_of(np.zeros((1, HEIGHT, WIDTH, 1)))

    def batch(pixels, texts):
        ids = np.array([[image_id] * P + tokenizer.encode(text) + [tokenizer.end_id] for text in texts], "int32")
        weight = np.repeat((np.arange(P + DIGITS) >= P - 1)[None].astype("float32"), len(ids), axis=0)
        return {"pixel_values": pixels, "token_ids": ids[:, :-1]}, ids[:, 1:], weight

    def batches():
        while True:
            yield batch(*strips(batch_size, data.images[:-UNSEEN], data.target[:-UNSEEN], rng, varied))

    fit(model, endless(batches), steps, verbose=verbose)

    pixels, texts = strips(500, data.images[-UNSEEN:], data.target[-UNSEEN:], np.random.default_rng(1))

    def exact(pixels):
        prompts = [{"token_ids": [image_id] * P, "pixel_values": strip[None]} for strip in pixels]
        written = kerasllm.generate(model, tokenizer, prompts, max_new_tokens=DIGITS + 1)
        return float(np.mean([one == other for one, other in zip(written, texts, strict=True)]))

    found = {"exact": exact(pixels), "exact_of_shuffled": exact(np.roll(pixels, 1, axis=0))}
    return {**found, **clock.read()}


if __name__ == "__main__":
    print(experiment(*map(int, sys.argv[1:])))
