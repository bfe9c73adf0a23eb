"""What the documented five-line model learns: characters, 4 layers of width 128, steps of 12 x 64 characters.

That is the size of nanoGPT's own table for a CPU, which gives a validation loss of 1.88 for tiny Shakespeare.
"""

import time

import keras

import kerasllm
from kerasllm.optimizers import Muon, WarmupStableDecay

CONTEXT, BATCH_SIZE = 64, 12
NANOGPT = 1.88  # nats per character


def documented_example(data, steps=2000, seed=0):
    """Trains the documented Sequential on the first 90 % of a text and scores all of the last 10 %.

    Args:
        data: what `kerasllm.data.read_text` reads.
        steps: int, training steps.
        seed: int, of the weights and of the data's order.

    Returns:
        A dict: "validation_loss" in nats per character, over non-overlapping windows of 64; "seconds" of training;
        "cached" and "uncached", characters per second when it writes; "same_text", whether both wrote the same;
        "sample", text that it drew.
    """
    tokenizer, validation = _characters(data)
    keras.utils.set_random_seed(seed)
    model = _example(tokenizer)
    start = time.perf_counter()
    model.fit(_batches(data, tokenizer, steps, seed), shuffle=False)
    seconds = time.perf_counter() - start
    speeds, texts = _writing(model, tokenizer)
    sample = kerasllm.generate(model, tokenizer, "\n", 300, sampler="random", temperature=0.8, seed=seed)
    return {
        "validation_loss": _score(model, validation),
        "seconds": seconds,
        **speeds,
        "same_text": texts["cached"] == texts["uncached"],
        "sample": sample,
    }


def speedrun(data, target=NANOGPT, steps=350, seed=0):
    """How long the documented example takes to a validation loss, and a model of its size that is trained to be quick.

    That one is the preset speedrun-laptop at 4 layers of width 128, its optimizer Muon, with a learning rate that
    stays and then falls to 0. Both score all of the last 10 % of the text; the time of scoring does not count, that
    of compiling does.

    Args:
        data, seed: see `documented_example`.
        target: float, nats per character, at which the example ends; it is scored every 50 steps.
        steps: int, of the quick model, which is scored at its end.

    Returns:
        A dict: "example" and "quick", each with "seconds", "steps" and "validation_loss"; "ratio" of the seconds.
    """
    tokenizer, validation = _characters(data)
    sizes = {"num_layers": 4, "d_model": 128, "num_heads": 4, "dff": 512, "max_length": CONTEXT}
    config = kerasllm.models.TransformerConfig.preset("speedrun-laptop", vocab_size=tokenizer.vocab_size, **sizes)
    results = {}
    for name, every, most in (("example", 50, 20 * steps), ("quick", steps, steps)):
        keras.utils.set_random_seed(seed)
        if name == "example":
            model = _example(tokenizer)
        else:
            model = kerasllm.models.CausalLM(config)
            model.compile(Muon(WarmupStableDecay(5e-3, warmup_steps=10, total_steps=steps)))
        stopwatch = _Stopwatch(validation, target, every)
        model.fit(_batches(data, tokenizer, most, seed), shuffle=False, verbose=0, callbacks=[stopwatch])
        results[name] = stopwatch.result
    return {**results, "ratio": results["example"]["seconds"] / results["quick"]["seconds"]}


class _Stopwatch(keras.callbacks.Callback):
    """Ends training where a validation loss is reached; `result` says how long that took, scoring left out."""

    def __init__(self, validation, target, every):
        super().__init__()
        self._validation, self._target, self._every = validation, target, every

    def on_train_begin(self, logs=None):
        self._start = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        steps = batch + 1
        if steps % self._every == 0:
            before = time.perf_counter()
            loss = _score(self.model, self._validation)
            self.result = {"seconds": before - self._start, "steps": steps, "validation_loss": loss}
            self._start += time.perf_counter() - before
            self.model.stop_training = loss <= self._target


def _characters(data):
    """The tokenizer of a text's characters, and the ids of its last tenth."""
    tokenizer = kerasllm.tokenizers.Tokenizer.train(kerasllm.data.read_text(data), kind="char", progress=False)
    return tokenizer, tokenizer.encode("".join(kerasllm.data.split_text(data)[1]))


def _batches(data, tokenizer, steps, seed):
    training, _ = kerasllm.data.split_text(data)
    options = {"seq_len": CONTEXT, "batch_size": BATCH_SIZE, "seed": seed, "progress": False}
    one_pass = len(kerasllm.data.causal_lm_dataset(training, tokenizer, **options))
    return kerasllm.data.causal_lm_dataset(training, tokenizer, **options, epochs=-(-steps // one_pass)).take(steps)


def _example(tokenizer):
    model = keras.Sequential(
        [
            keras.layers.Embedding(tokenizer.vocab_size, 128),
            kerasllm.layers.Transformer(4, 128, 4, 512),
            keras.layers.Dense(tokenizer.vocab_size),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
    model.compile(optimizer=keras.optimizers.Adam(), loss=loss)
    return model


def _score(model, ids):
    return kerasllm.evaluation.score_tokens(model, ids, context=CONTEXT).loss


def _writing(model, tokenizer, new_tokens=200):
    """Characters per second and the greedy text itself, with the cache and without."""
    speeds, texts = {}, {}
    for name, cached in {"cached": True, "uncached": False}.items():
        kerasllm.generate(model, tokenizer, "\n", new_tokens, cached=cached)  # Compiles.
        start = time.perf_counter()
        texts[name] = kerasllm.generate(model, tokenizer, "\n", new_tokens, cached=cached)
        speeds[name] = new_tokens / (time.perf_counter() - start)
    return speeds, texts
