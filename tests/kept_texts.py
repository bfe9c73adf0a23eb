"""Small models of Python's documentation in which something is hidden: canaries, read with and without a promise of
privacy, and passages that stand there eight times and are to be forgotten.

`python tests/kept_texts.py canaries` prints the figures of docs/how-to/keep-private.md, `... passages` those of its
part on forgetting; numbers behind that are seeds.
"""

import sys
import time

import keras
import numpy as np

from kerasllm import data, evaluation, privacy, safety
from kerasllm.losses import Unlearning
from kerasllm.models import CausalLM, TransformerConfig
from kerasllm.optimizers import AdamW, warmup_cosine
from kerasllm.safety import memory
from kerasllm.safety.token_scores import TokenScorer
from kerasllm.tokenizers import Tokenizer

WINDOW, PASSES, EPSILON = 64, 4, 8.0
FORGOTTEN, REPEATS, RETAINED = 20, 8, 100  # passages
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


def trained_in_private(texts, tokenizer, seed, passes=2 * PASSES, batch_size=128, clip_norm=1.0):
    model = new_model(tokenizer, seed)
    batches = data.causal_lm_dataset(
        texts, tokenizer, WINDOW, batch_size, seed, epochs=passes, poisson=True, progress=False
    )
    rows = {"examples": batches.num_examples, "batch_size": batch_size, "delta": 1e-5, "steps": len(batches)}
    noise = privacy.noise_multiplier_for(epsilon=EPSILON, **rows)
    rate = warmup_cosine(3e-3, len(batches) // 10, len(batches))
    model.compile(privacy.DPAdamW(rate, noise_multiplier=noise, clip_norm=clip_norm, batch_size=batch_size, seed=seed))
    model.fit(batches, verbose=0)
    return model


def canaries(seed, count=16):
    """Exposures in bits, with and without a promise: of canaries that stand there 1, 4, 16 and 64 times, of others that
    stand there 10 times, and of as many that were never read; and the loss on text that was not read. By model."""
    texts, held_out = passages(seed)
    planted = safety.make_canaries([1, 4, 16, 64] + [10] * count, seed)
    unread = safety.make_canaries([10] * count, seed + 1000)
    texts = list(safety.plant(texts, planted, seed))
    tokenizer = Tokenizer.train(texts, kind="char", progress=False)
    found = {}
    for name, train in (("plain", trained), ("private", trained_in_private)):
        model = train(texts, tokenizer, seed)
        bits = safety.exposures(model, tokenizer, planted + (unread if name == "private" else []))
        loss = evaluation.perplexity(model, tokenizer, held_out).loss
        found[name] = {"repeats": bits[:4], "ten": bits[4 : 4 + count], "unread": bits[4 + count :], "loss": loss}
    return found


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


def unlearned(original, tokenizer, forget, retain, unread, variant, seed, rate=5e-4, most=12):
    """A copy of a model that has forgotten passages: until they are no likelier to it than what it never read."""
    model = new_model(tokenizer, seed)
    model.set_weights(original.get_weights())
    some = np.random.default_rng(seed).permutation(retain)[:RETAINED].tolist()
    reference = original if variant == "npo" else None
    batches = data.unlearning_dataset(forget, some, tokenizer, WINDOW, 16, seed, epochs=most, reference=reference)
    model.compile(AdamW(rate, weight_decay=0.0), Unlearning(variant=variant))

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
    for seed in map(int, sys.argv[2:] or [0]):
        if sys.argv[1] == "canaries":
            for name, one in canaries(seed).items():
                print(f"seed {seed} {name}: 1, 4, 16, 64 times", *(f"{bits:.1f}" for bits in one["repeats"]), end="; ")
                for kind in ("ten", "unread"):
                    if one[kind]:
                        error = np.std(one[kind], ddof=1) / len(one[kind]) ** 0.5
                        print(f"{kind} {np.mean(one[kind]):.2f} ± {error:.2f}", end="; ")
                print(f"loss {one['loss']:.3f}", flush=True)
        else:
            for name, one in forgotten(seed).items():
                print(f"seed {seed} {name}:", ", ".join(f"{key} {value:.3f}" for key, value in one.items()), flush=True)
