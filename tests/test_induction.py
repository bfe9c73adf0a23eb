"""Induction heads: they come while a model of two layers trains on texts that repeat themselves, and in one of a single
layer they cannot; without the head, what was learned is gone."""

import keras
import numpy as np
import pytest

from kerasllm import interpret
from kerasllm.interpret.attention_heads import repeated_tokens
from kerasllm.models import CausalLM, TransformerConfig

V, T, B, STEPS = 64, 64, 64, 600


def repeating_texts(count):
    """Random tokens that begin anew after 20 to 32 of them, with a weight where what follows is known by then."""
    draw = np.random.default_rng(0)
    ids, known = np.zeros((count, T), "int32"), np.zeros((count, T), "float32")
    for row, weight in zip(ids, known, strict=True):
        period = draw.integers(20, T // 2 + 1)
        row[:] = np.resize(draw.integers(0, V, period), T)
        weight[period + 1 :] = 1
    return ids[:, :-1], ids[:, 1:], known[:, 1:]


def gain(model):
    """How much less is lost on tokens the second time they come, in nats."""
    ids = repeated_tokens(model, None, T // 2, 64, 1)
    log_probabilities = np.array(keras.ops.log_softmax(model(ids[:, :-1])))
    losses = -np.take_along_axis(log_probabilities, ids[:, 1:, None], axis=-1)
    return losses[:, : T // 2 - 1].mean() - losses[:, T // 2 :].mean()


@pytest.mark.soak
def test_induction_heads_come_with_two_layers_and_carry_what_was_learned():
    best, models = {}, {}
    for num_layers in (1, 2):
        keras.utils.set_random_seed(0)
        config = TransformerConfig(
            V, num_layers, d_model=64, num_heads=1, dff=256, max_length=T, norm="rms", use_bias=False,
            tie_embeddings=False,
        )  # fmt: skip
        model = models[num_layers] = CausalLM(config)
        model.compile(keras.optimizers.AdamW(2e-3, beta_2=0.99, global_clipnorm=1.0), jit_compile=True)
        x, y, weights = repeating_texts(B * (STEPS if num_layers == 2 else STEPS // 2))
        model.fit(x, y, sample_weight=weights, batch_size=B, shuffle=False, verbose=0)
        best[num_layers] = interpret.head_scores(model, length=T // 2).best()
    assert best[1][2] <= 0.2
    layer, _, score = best[2]
    assert layer == 1 and score >= 0.8
    assert interpret.head_scores(models[2], length=T // 2).best("previous_token")[0] == 0

    before = gain(models[2])
    with interpret.edit(models[2], {"block_1/attention/heads": keras.ops.zeros_like}):
        after = gain(models[2])
    assert before > 4 and after <= 0.2 * before
