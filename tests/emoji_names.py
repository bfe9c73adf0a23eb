"""Emoji in three styles of drawing, and models that learn their names: data and experiments for tests.

    python tests/emoji_names.py        trains from nothing and prints what came of it

Of the third style, Fluent, some drawings are held out: their names are known of the two other styles alone. Models see
histograms of edges in the place of pixels: what styles have in common is where lines are and which way they go.
"""

import json
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from seeing_experiments import Clock, fit

import kerasllm
from kerasllm.models import ContrastiveModel, TransformerConfig, VisionLanguageModel
from kerasllm.models.weights import weight_names
from kerasllm.tokenizers import Tokenizer
from kerasllm.vision import VisionConfig

FOLDER = Path(__file__).parents[2] / "shared" / "data" / "emoji"
STYLES = ("noto", "twemoji", "fluent")
HELD_OUT = 200  # drawings of Fluent
SIZE, LENGTH, VOCABULARY = 48, 16, 1200
IMAGE, IMAGE_ID = "<|image|>", 3  # what stands for pictures in a text
CELL, WAYS = 6, 8  # pixels of a cell's side, and ways that an edge may go
VISION = VisionConfig(SIZE // CELL, 2, num_layers=2, d_model=128, num_heads=4, dff=512, channels=WAYS + 3)


def read_drawings():
    """Drawings uint8 (N, 48, 48, 4), of each the number of its name and of its style; and the names."""
    entries = [json.loads(line) for line in (FOLDER / "names.jsonl").read_text().splitlines()]
    names, pixels, labels, styles = [entry["name"] for entry in entries], [], [], []
    for style, name in enumerate(STYLES):
        with zipfile.ZipFile(FOLDER / f"{name}.zip") as archive:
            inside = set(archive.namelist())
            for label, entry in enumerate(entries):
                if entry["file"] in inside:
                    pixels.append(tf.io.decode_png(archive.read(entry["file"]), channels=4).numpy())
                    labels.append(label)
                    styles.append(style)
    return np.stack(pixels), np.array(labels), np.array(styles), names


def split(styles, seed=0):
    """The numbers of drawings to train on, and of those of Fluent that are held out."""
    fluent = np.flatnonzero(styles == STYLES.index("fluent"))
    held_out = np.sort(np.random.default_rng(seed).permutation(fluent)[:HELD_OUT])
    return np.setdiff1d(np.arange(len(styles)), held_out), held_out


def on_white(pixels):
    """Drawings with their transparency as floats (B, 48, 48, 3) from -1 to 1."""
    pixels = tf.cast(pixels, "float32") / 255
    return 1 - 2 * pixels[..., 3:] * (1 - pixels[..., :3])


def edges(pictures):
    """Of each cell of pictures (B, 48, 48, 3) how much edge goes each way, and its colour: float32 (B, 8, 8, 11).

    Reference: histograms of oriented gradients, Dalal & Triggs 2005, https://doi.org/10.1109/CVPR.2005.177
    """
    pictures = tf.convert_to_tensor(pictures)
    grey = tf.pad(tf.reduce_mean(pictures, axis=-1), [[0, 0], [1, 1], [1, 1]], "SYMMETRIC")
    down, right = grey[:, 2:, 1:-1] - grey[:, :-2, 1:-1], grey[:, 1:-1, 2:] - grey[:, 1:-1, :-2]
    way = tf.math.floormod(tf.atan2(down, right), np.pi)[..., None] / np.pi * WAYS
    apart = tf.abs(way - tf.range(WAYS, dtype="float32"))
    share = tf.nn.relu(1 - tf.minimum(apart, WAYS - apart))  # of the two nearest ways
    strength = share * tf.sqrt(down**2 + right**2)[..., None]
    strength = tf.sqrt(tf.nn.avg_pool2d(strength, CELL, CELL, "VALID") + 1e-4)
    strength /= tf.sqrt(tf.reduce_mean(strength**2, axis=(1, 2, 3), keepdims=True))
    return tf.concat([strength - 0.8, tf.nn.avg_pool2d(pictures, CELL, CELL, "VALID")], axis=-1)


def varied(pixels, seed):
    """The same, turned, moved, stretched and coloured by chance."""
    B = tf.shape(pixels)[0]
    seeds = iter(tf.unstack(tf.random.split(seed, 7)))

    def drawn(low, high, *shape):
        return tf.random.stateless_uniform((B, *shape), next(seeds), low, high)

    turn, scale, ratio = drawn(-0.2, 0.2), tf.exp(drawn(-0.2, 0.2)), tf.exp(drawn(-0.15, 0.15))
    shift = drawn(-4.0, 4.0, 2)
    cos, sin, middle = tf.cos(turn) * scale, tf.sin(turn) * scale, (SIZE - 1) / 2
    a, b, c, d = cos * ratio, -sin, sin * ratio, cos
    x0 = middle - a * middle - b * middle + shift[:, 0]
    y0 = middle - c * middle - d * middle + shift[:, 1]
    zero = tf.zeros_like(a)
    pixels = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(pixels, "float32"),
        transforms=tf.stack([a, b, x0, c, d, y0, zero, zero], axis=1),
        output_shape=[SIZE, SIZE],
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
        fill_value=0.0,
    )
    x = on_white(pixels)
    grey = tf.reduce_mean(x, axis=-1, keepdims=True)
    x = grey + (x - grey) * drawn(0.4, 1.4, 1, 1, 1)
    return tf.clip_by_value(x * drawn(0.8, 1.2, 1, 1, 3) + drawn(-0.2, 0.2, 1, 1, 3), -1.5, 1.5)


def batches(pixels, rows, batch_size, steps, seed, of_rows):
    """A data set of so many batches; the order and what is varied are a function of the seed and the step.

    Args:
        pixels: uint8 (N, 48, 48, 4).
        rows: int (M,), which of them.
        of_rows: function (pictures, numbers of drawings) -> what a batch is.
    """
    pixels, rows = tf.constant(pixels), tf.constant(rows, "int32")

    def batch(step):
        pair = tf.stack([tf.cast(step, "int32"), seed])
        places = tf.argsort(tf.random.stateless_uniform((len(rows),), pair))[:batch_size]
        taken = tf.gather(rows, places)
        return of_rows(edges(varied(tf.gather(pixels, taken), pair)), taken)

    return tf.data.Dataset.range(steps).map(batch, num_parallel_calls=2).prefetch(2)


def encoded(tokenizer, names):
    """Ids of names, an end token behind each, and then padding: int32 (N, LENGTH)."""
    ids = [[*tokenizer.encode(name), tokenizer.end_id][:LENGTH] for name in names]
    return np.array([row + [tokenizer.pad_id] * (LENGTH - len(row)) for row in ids], "int32")


def train_contrastive(pixels, labels, rows, ids, pad_id, steps, batch_size=128, seed=0, verbose=2):
    """A `ContrastiveModel` of drawings and names."""
    keras.utils.set_random_seed(seed)
    config = TransformerConfig(VOCABULARY, 2, 128, 4, 512, max_length=LENGTH)
    model = ContrastiveModel(config, VISION, 128)
    ids, labels = tf.constant(ids), tf.constant(labels, "int32")

    def of_rows(pictures, taken):
        texts = tf.gather(ids, tf.gather(labels, taken))
        documents = tf.cast(texts != pad_id, "int32")
        return {"pixel_values": pictures, "token_ids": texts, "document_ids": documents}, tf.gather(labels, taken)

    fit(model, batches(pixels, rows, batch_size, steps, seed, of_rows), steps, weight_decay=0.05, verbose=verbose)
    return model


def train_captioner(encoder, pixels, labels, rows, ids, tokenizer, steps, batch_size=128, seed=0, verbose=2):
    """A `VisionLanguageModel` that writes names, whose encoder begins with the weights of another."""
    keras.utils.set_random_seed(seed)
    config = TransformerConfig(VOCABULARY, 2, 128, 4, 512, max_length=96, dropout=0.1, positions="learned")
    model = VisionLanguageModel(config, VISION, {"kind": "average", "factor": 2}, IMAGE_ID, attention="image")
    learned = weight_names(encoder)
    for name, weight in weight_names(model).items():
        if name.startswith("vision/") and name in learned:
            weight.assign(learned[name])
    ids, labels, P = tf.constant(ids), tf.constant(labels, "int32"), model.tokens_per_image

    def of_rows(pictures, taken):
        texts = tf.gather(ids, tf.gather(labels, taken))
        B = tf.shape(texts)[0]
        before = tf.fill((B, P), IMAGE_ID)
        tokens = tf.concat([before, texts[:, :-1]], axis=1)
        targets = tf.concat([before[:, 1:], texts], axis=1)
        weights = tf.cast((targets != IMAGE_ID) & (targets != tokenizer.pad_id), "float32")
        return {"pixel_values": pictures, "token_ids": tokens}, targets, weights

    for stage, part, peak in (("projector", steps // 10, 5e-3), ("all", steps - steps // 10, 3e-3)):
        model.train_stage(stage)
        fit(model, batches(pixels, rows, batch_size, part, seed + len(stage), of_rows), part, peak, 0.05, verbose)
    return model


def write_names(model, tokenizer, pictures, names=None):
    """What a model calls pictures, list of str; where there are `names`, one of them."""
    prompt = {"token_ids": [model.image_token_id] * model.tokens_per_image}
    prompts = [{**prompt, "pixel_values": picture[None]} for picture in np.asarray(pictures)]
    texts = kerasllm.generate(model, tokenizer, prompts, max_new_tokens=LENGTH, choices=names)
    return [text.strip() for text in texts]


def retrieval(model, pictures, labels, ids, pad_id):
    """How often the picture of a name is among the 5 of all that are nearest to it, and how often its own name is the
    nearest to a picture of all names there are."""
    documents = (ids != pad_id).astype("int32")
    texts = np.array(model.text_vectors({"token_ids": ids, "document_ids": documents}))
    scores = texts @ np.array(model.image_vectors(np.asarray(pictures))).T  # (names, pictures)
    own = scores[labels, np.arange(len(labels))]
    recall = float(((scores[labels] > own[:, None]).sum(axis=1) < 5).mean())
    return {"recall_at_5": recall, "nearest_name": float((scores.argmax(axis=0) == labels).mean())}


def nearest_drawing(seen, labels, rows, held_out):
    """How often the drawing of those trained on that looks most alike has the same name; `seen` is (N, …)."""
    seen = np.asarray(seen).reshape(len(seen), -1)
    distances = (seen[rows] ** 2).sum(axis=1) - 2 * seen[held_out] @ seen[rows].T
    return float((labels[rows][distances.argmin(axis=1)] == labels[held_out]).mean())


def experiment(contrastive_steps=800, caption_steps=500, verbose=2):
    """Trains both, and measures on held-out drawings: a dict of shares."""
    clock = Clock()
    pixels, labels, styles, names = read_drawings()
    rows, held_out = split(styles)
    tokenizer = Tokenizer.train(names, vocab_size=VOCABULARY, kind="bpe", special_tokens=[IMAGE], progress=False)
    ids = encoded(tokenizer, names)
    pictures = on_white(pixels)
    found = {
        "nearest_pixels": nearest_drawing(pictures, labels, rows, held_out),
        "nearest_edges": nearest_drawing(edges(pictures), labels, rows, held_out),
    }
    both = train_contrastive(pixels, labels, rows, ids, tokenizer.pad_id, contrastive_steps, verbose=verbose)
    asked, answers = edges(on_white(pixels[held_out])), [names[label] for label in labels[held_out]]
    found |= retrieval(both, asked, labels[held_out], ids, tokenizer.pad_id)
    found["contrastive"] = clock.read()
    if verbose:
        print(found, flush=True)
    model = train_captioner(both, pixels, labels, rows, ids, tokenizer, caption_steps, verbose=verbose)

    def exact(pictures, known=None):
        texts = write_names(model, tokenizer, pictures, known)
        return float(np.mean([text == answer for text, answer in zip(texts, answers, strict=True)]))

    known = sorted(set(names))
    found["exact_name"] = exact(asked)
    found["exact_name_of_known"] = exact(asked, known)
    found["exact_name_of_shuffled"] = exact(np.roll(asked, 1, axis=0), known)
    found["exact_name_of_blank"] = exact(edges(np.ones((len(answers), SIZE, SIZE, 3), "float32")), known)
    return {**found, **clock.read()}


if __name__ == "__main__":
    print(experiment(*map(int, sys.argv[1:])))
