"""What is measured. Each program prepares itself, compilation included, and returns a function that measures a turn.

The model is GPT-2's architecture at one size for all: 6 layers, d_model 384, 6 heads, dff 1536, context 256. Batches
are random ids, as speed does not depend on them.
"""

import json
import sys
import tempfile
import time

NUM_LAYERS, D_MODEL, NUM_HEADS, DFF, CONTEXT = 6, 384, 6, 1536, 256
PROMPT, NEW_TOKENS = 64, 192


def train_kerasllm(dtype, steps=10, batch_size=16, vocab_size=65):
    from kerasllm.optimizers import AdamW

    model = _causal_lm(vocab_size, dtype)
    model.compile(AdamW(1e-3))
    return _training(model, lambda ids: ids, steps, batch_size, vocab_size)


def train_keras_hub(dtype, jit_compile, steps=10, batch_size=16, vocab_size=65):
    import keras

    model = _gpt2_causal_lm(vocab_size, dtype)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(1e-3, global_clipnorm=1.0), loss, jit_compile=jit_compile)
    return _training(model, _with_padding_mask, steps, batch_size, vocab_size)


def generate_kerasllm(batch_size, dtype="float32", vocab_size=300):
    from kerasllm.generation import generate_ids

    model = _causal_lm(vocab_size, dtype)
    prompts = _random_ids(batch_size, PROMPT, vocab_size).tolist()

    def generate():
        generate_ids(model, prompts, NEW_TOKENS)

    generate()
    return _timed(generate, batch_size * NEW_TOKENS)


def generate_keras_hub(batch_size, dtype="float32", vocab_size=300):
    import numpy as np

    model = _gpt2_causal_lm(vocab_size, dtype)
    model.compile(sampler="greedy", jit_compile=True)
    inputs = {
        "token_ids": np.pad(_random_ids(batch_size, PROMPT, vocab_size), ((0, 0), (0, NEW_TOKENS))),
        "padding_mask": np.tile(np.arange(CONTEXT) < PROMPT, (batch_size, 1)),
    }

    def generate():
        model.generate(inputs, stop_token_ids=None)

    generate()
    return _timed(generate, batch_size * NEW_TOKENS)


def generate_served(batch_size, dtype="float32", vocab_size=300):
    """The loop in a SavedModel: a plain graph, as servers without XLA run it."""
    import tensorflow as tf

    import kerasllm
    from kerasllm.tokenizers.training import make_byte

    tokenizer = kerasllm.tokenizers.Tokenizer(make_byte(vocab_size, ()))  # without an end token, so no row ends early
    with tempfile.TemporaryDirectory() as folder:
        kerasllm.export.saved_model(_causal_lm(vocab_size, dtype), tokenizer, f"{folder}/model")
        loaded = tf.saved_model.load(f"{folder}/model")
    settings = {"max_new_tokens": NEW_TOKENS, "temperature": 0.0, "top_k": 0, "top_p": 1.0, "seed": 0}
    inputs = {name: tf.constant(value) for name, value in settings.items()}
    inputs["token_ids"] = _random_ids(batch_size, PROMPT, tokenizer.vocab_size)
    inputs["prompt_lengths"] = tf.fill([batch_size], PROMPT)

    def generate():
        loaded.signatures["generate_ids"](**inputs)

    generate()
    return _timed(generate, batch_size * NEW_TOKENS)


def _causal_lm(vocab_size, dtype):
    from kerasllm.models import CausalLM, TransformerConfig

    sizes = {"num_layers": NUM_LAYERS, "d_model": D_MODEL, "num_heads": NUM_HEADS, "dff": DFF, "max_length": CONTEXT}
    return CausalLM(TransformerConfig.preset("gpt2", vocab_size=vocab_size, **sizes, dropout=0.0), dtype=dtype)


def _gpt2_causal_lm(vocab_size, dtype):
    from keras_nlp.models import GPT2Backbone, GPT2CausalLM

    backbone = GPT2Backbone(
        vocabulary_size=vocab_size,
        num_layers=NUM_LAYERS,
        num_heads=NUM_HEADS,
        hidden_dim=D_MODEL,
        intermediate_dim=DFF,
        dropout=0.0,
        max_sequence_length=CONTEXT,
        dtype=dtype,
    )
    return GPT2CausalLM(backbone, preprocessor=None)


def _with_padding_mask(ids):
    import numpy as np

    return {"token_ids": ids, "padding_mask": np.ones_like(ids, dtype=bool)}


def _random_ids(batch_size, length, vocab_size):
    import numpy as np

    return np.random.default_rng(0).integers(0, vocab_size, (batch_size, length), dtype="int32")


def _training(model, as_inputs, steps, batch_size, vocab_size):
    """`fit` on the same windows for every program; the first steps, which compile, are not timed."""
    import tensorflow as tf

    ids = _random_ids(batch_size, CONTEXT + 1, vocab_size)
    batch = (as_inputs(ids[:, :-1]), ids[:, 1:])
    options = tf.data.Options()
    options.autotune.enabled = False  # Its thread would delay the end of `fit`, up to doubling what is timed.
    dataset = tf.data.Dataset.from_tensors(batch).repeat().with_options(options)

    def fit(steps):
        model.fit(dataset, steps_per_epoch=steps, shuffle=False, verbose=0)

    fit(2)
    return _timed(lambda: fit(steps), steps * batch_size * CONTEXT)


def _timed(work, tokens):
    """Returns a function that does the work and returns tokens per second."""

    def measure():
        start = time.perf_counter()
        work()
        return tokens / (time.perf_counter() - start)

    return measure


def main(program, settings):
    """Prepares a program, then measures it each time a line comes in."""
    measure = globals()[program](**json.loads(settings))
    print('ANSWER "ready"', flush=True)
    for _ in sys.stdin:
        print("ANSWER", json.dumps(measure()), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
