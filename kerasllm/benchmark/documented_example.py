"""What the documented five-line model learns: characters, 4 layers of width 128, 2,000 steps of 12 x 64 characters.

That is the size of nanoGPT's own table for a CPU, which gives a validation loss of 1.88 for tiny Shakespeare.
"""

import time


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
    import keras

    import kerasllm

    keras.utils.set_random_seed(seed)
    training, validation = kerasllm.data.split_text(data)
    tokenizer = kerasllm.tokenizers.Tokenizer.train(kerasllm.data.read_text(data), kind="char", progress=False)
    batches = {"seq_len": 64, "batch_size": 12, "seed": seed, "progress": False}
    one_pass = len(kerasllm.data.causal_lm_dataset(training, tokenizer, **batches))
    dataset = kerasllm.data.causal_lm_dataset(training, tokenizer, **batches, epochs=-(-steps // one_pass)).take(steps)

    model = keras.Sequential(
        [
            keras.layers.Embedding(tokenizer.vocab_size, 128),
            kerasllm.layers.Transformer(4, 128, 4, 512),
            keras.layers.Dense(tokenizer.vocab_size),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
    model.compile(optimizer=keras.optimizers.Adam(), loss=loss)
    start = time.perf_counter()
    model.fit(dataset, shuffle=False)
    seconds = time.perf_counter() - start

    ids = tokenizer.encode("".join(validation))
    scores = kerasllm.evaluation.score_tokens(model, ids, context=64)
    speeds, texts = _writing(model, tokenizer)
    sample = kerasllm.generate(model, tokenizer, "\n", 300, sampler="random", temperature=0.8, seed=seed)
    return {
        "validation_loss": scores.loss,
        "seconds": seconds,
        **speeds,
        "same_text": texts["cached"] == texts["uncached"],
        "sample": sample,
    }


def _writing(model, tokenizer, new_tokens=200):
    """Characters per second and the greedy text itself, with the cache and without."""
    import kerasllm

    speeds, texts = {}, {}
    for name, cached in {"cached": True, "uncached": False}.items():
        kerasllm.generate(model, tokenizer, "\n", new_tokens, cached=cached)  # Compiles.
        start = time.perf_counter()
        texts[name] = kerasllm.generate(model, tokenizer, "\n", new_tokens, cached=cached)
        speeds[name] = new_tokens / (time.perf_counter() - start)
    return speeds, texts
