"""Small models of Python's documentation in which passages stand eight times that are to be forgotten.

`python tests/kept_texts.py` prints the figures of docs/how-to/keep-private.md; numbers behind it are seeds.
"""

import sys
import time

import keras
import numpy as np

from kerasllm import data, evaluation
from kerasllm.losses import Unlearning
from kerasllm.models import CausalLM, TransformerConfig
from kerasllm.optimizers import AdamW, warmup_cosine
from kerasllm.safety import memory
from kerasllm.safety.token_scores import TokenScorer
from kerasllm.tokenizers import Tokenizer

WINDOW, PASSES = 64, 4
FORGOTTEN, REPEATS, RETAINED = 20, 8, 100  # passages
RETAIN_WEIGHT = {"npo": 10.0, "gradient_difference": 3.0}
CHARACTERS = 140_000


def passages(seed):
    """Paragraphs of Python's documentation in an order by chance: those to be read, and others, lists of str."""
    found = [part.strip() for text in data.read_text("python_docs") for part in text.split("\n\n")]
    found = [part for part in dict.fromkeys(found) if 120 <= len(part) <= 600]
    order = np.random.default_rng(seed).permutation(len(found))
    count = int(np.searchsorted(np.cumsum([len(found[i]) for i in order]), CHARACTERS))
    return [found[i] for i in order[:count]], [found[i] for i in order[count : count + 60]]


def new_model(tokenizer, seed):
    keras.utils.set_random_seed(seed)
    config = TransformerConfig(tokenizer.vocab_size, 2, 96, 4, 384, max_length=WINDOW, positions="rotary")
    return CausalLM(config)


def trained(texts, tokenizer, seed):
    model = new_model(tokenizer, seed)
    batches = data.causal_lm_dataset(texts, tokenizer, WINDOW, 32, seed, epochs=PASSES, progress=False)
    model.compile(AdamW(warmup_cosine(3e-3, len(batches) // 10, len(batches)), weight_decay=0.01))
    model.fit(batches, verbose=0)
    return model


def forgotten(seed):
    """What four models know of passages that stood there eight times: the one that read them, one that never did, and
    the first one after either way of forgetting them. Dicts of figures, by model."""
    texts, held_out = passages(seed)
    forget, retain = texts[:FORGOTTEN], texts[FORGOTTEN:]
    mixed = np.random.default_rng(seed).permutation(forget * REPEATS + retain).tolist()
    tokenizer = Tokenizer.train(texts, kind="char", progress=False)

    def figures(model, seconds):
        losses = [evaluation.perplexity(model, tokenizer, some).loss for some in (forget, retain[:60], held_out)]
        score = TokenScorer(model)
        rows = [_rows(some, tokenizer) for some in (forget, held_out)]
        likely, are_likeliest = zip(*map(score, rows), strict=True)
        found = memory.told_apart("loss", *(part.mean(axis=1) for part in likely))
        extracted = are_likeliest[0][:, WINDOW // 2 - 1 :].all(axis=1).mean()
        names = ("forgotten", "kept", "unread")
        return {**dict(zip(names, losses, strict=True)), "told": found.auc, "extracted": extracted, "seconds": seconds}

    def timed(function, *arguments):
        begin = time.perf_counter()
        return function(*arguments), time.perf_counter() - begin

    original, seconds = timed(trained, mixed, tokenizer, seed)
    found = {"as it was": figures(original, seconds)}
    found["trained anew without them"] = figures(*timed(trained, retain, tokenizer, seed))
    parts = original, tokenizer, forget, retain, found["as it was"]["unread"]
    for variant in Unlearning.variants:
        found[variant] = figures(*timed(unlearned, *parts, variant, seed))
    return found


def unlearned(original, tokenizer, forget, retain, unread, variant, seed, rate=1e-4, most=12):
    """A copy of a model that has forgotten passages: until they are no likelier to it than what it never read."""
    model = new_model(tokenizer, seed)
    model.set_weights(original.get_weights())
    some = np.random.default_rng(seed).permutation(retain)[:RETAINED].tolist()
    reference = original if variant == "npo" else None
    batches = data.unlearning_dataset(forget, some, tokenizer, WINDOW, 16, seed, epochs=most, reference=reference)
    model.compile(AdamW(rate, weight_decay=0.0), Unlearning(variant=variant, retain_weight=RETAIN_WEIGHT[variant]))

    def stop(epoch, logs):
        if evaluation.perplexity(model, tokenizer, forget).loss >= unread:
            model.stop_training = True

    watch = keras.callbacks.LambdaCallback(on_epoch_end=stop)
    model.fit(batches, steps_per_epoch=len(batches) // most, epochs=most, callbacks=[watch], verbose=0)
    return model


def _rows(texts, tokenizer):
    """The ids of passages, cut into windows, int32 (N, WINDOW)."""
    ids = [tokenizer.encode(text) for text in texts]
    return np.array([row[i : i + WINDOW] for row in ids for i in range(0, len(row) - WINDOW + 1, WINDOW)], "int32")


if __name__ == "__main__":
    for seed in map(int, sys.argv[1:] or [0]):
        for name, one in forgotten(seed).items():
            print(f"seed {seed} {name}:", ", ".join(f"{key} {value:.3f}" for key, value in one.items()), flush=True)
