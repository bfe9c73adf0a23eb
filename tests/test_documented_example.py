"""The five lines that people have read, with only the layer's address changed."""

import numpy as np
import pytest
import tensorflow as tf

import kerasllm
from kerasllm.generation.stepping import CachedStepper, get_stepper

DOCUMENTED = """
model = tf.keras.Sequential([
    tf.keras.layers.Embedding(vocab_size, embedding_dim),
    kerasllm.layers.Transformer(num_layers, d_model, num_heads, dff),
    tf.keras.layers.Dense(vocab_size)
])
model.compile(optimizer=tf.keras.optimizers.Adam(),
              loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
model.fit(dataset, epochs=10)
"""


@pytest.fixture(scope="module")
def tokenizer_and_text():
    text = "the quick brown fox jumps over the lazy dog. " * 40
    return kerasllm.tokenizers.Tokenizer.train([text], kind="char", progress=False), text


def run_documented(dataset, vocab_size, num_layers=2):
    sizes = {"embedding_dim": 24, "num_layers": num_layers, "d_model": 32, "num_heads": 4, "dff": 64}
    names = {"tf": tf, "kerasllm": kerasllm, "dataset": dataset, "vocab_size": vocab_size, **sizes}
    exec(DOCUMENTED, names)
    return names["model"]


def test_it_learns_and_talks_from_our_data(tokenizer_and_text):
    tokenizer, text = tokenizer_and_text
    dataset = kerasllm.data.causal_lm_dataset([text], tokenizer, seq_len=32, batch_size=4, progress=False)
    model = run_documented(dataset, tokenizer.vocab_size)
    losses = model.history.history["loss"]
    assert len(losses) == 10 and losses[-1] < 0.5 * losses[0]
    assert isinstance(get_stepper(model), CachedStepper)
    assert kerasllm.generate(model, tokenizer, "the quick brown", max_new_tokens=10).startswith(" fox jum")


@pytest.mark.soak
def test_it_takes_plain_pairs_and_padding_by_mask_zero():
    ids = np.tile(np.arange(1, 10), (8, 1))
    dataset = tf.data.Dataset.from_tensor_slices((ids[:, :-1], ids[:, 1:])).batch(3)
    model = run_documented(dataset, vocab_size=10, num_layers=1)
    assert model(ids).shape == (8, 9, 10)
