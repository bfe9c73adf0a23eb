"""Live comparison with Hugging Face transformers on torch: the same weights give the same numbers.

Everything here is skipped where they are not installed; `pip install -e ".[parity]"` brings them.
"""

import numpy as np
import pytest

import kerasllm
from kerasllm import runs

pytestmark = pytest.mark.parity
ABSENT = 'transformers and torch are not installed: pip install torch==2.13.0 && pip install -e ".[parity]"'
torch = pytest.importorskip("torch", reason=ABSENT)
transformers = pytest.importorskip("transformers", reason=ABSENT)

D, H, F, V, T = 32, 4, 128, 101, 24
TOLERANCE = {"atol": 2e-5, "rtol": 2e-5}


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(2, T, D)).astype("float32")


def randomized(module):
    """Moves every weight far from its initial value, norms and biases too."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3 + (0.5 if parameter.ndim == 1 else 0))
    return module.eval()


def copied(layer, arrays):
    """Assigns arrays by the ends of the names of a layer's weights; each fits one weight, and none is left over."""
    left = list(layer.weights)
    for name, tensor in arrays.items():
        (weight,) = (weight for weight in left if weight.path.endswith(f"/{name}"))
        weight.assign(tensor.detach().numpy())
        left = [other for other in left if other is not weight]
    assert not left, [weight.path for weight in left]
    return layer


def gpt2_block_weights(block):
    """A GPT-2 block's weights by our names. Its Conv1D kernels are (in, out), as Keras' are."""
    return {
        "attention_norm/gamma": block.ln_1.weight,
        "attention_norm/beta": block.ln_1.bias,
        "attention/query_key_value/kernel": block.attn.c_attn.weight,
        "attention/query_key_value/bias": block.attn.c_attn.bias,
        "attention/output/kernel": block.attn.c_proj.weight,
        "attention/output/bias": block.attn.c_proj.bias,
        "feed_forward_norm/gamma": block.ln_2.weight,
        "feed_forward_norm/beta": block.ln_2.bias,
        "feed_forward/inner/kernel": block.mlp.c_fc.weight,
        "feed_forward/inner/bias": block.mlp.c_fc.bias,
        "feed_forward/outer/kernel": block.mlp.c_proj.weight,
        "feed_forward/outer/bias": block.mlp.c_proj.bias,
    }


@pytest.fixture(scope="module")
def gpt2():
    config = transformers.GPT2Config(
        vocab_size=V, n_positions=T, n_embd=D, n_layer=2, n_head=H, n_inner=F, attn_implementation="eager"
    )
    return randomized(transformers.GPT2LMHeadModel(config))


@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
def test_grouped_rotary_attention_is_llamas(x, num_kv_heads):
    from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding

    config = transformers.LlamaConfig(
        hidden_size=D, num_attention_heads=H, num_key_value_heads=num_kv_heads, attn_implementation="eager"
    )
    theirs = randomized(LlamaAttention(config, layer_idx=0))
    ours = kerasllm.layers.MultiHeadAttention(
        D, H, num_kv_heads=num_kv_heads, causal=True, positions="rotary", use_bias=False
    )
    ours.build(x.shape)
    projections = [theirs.q_proj.weight, theirs.k_proj.weight, theirs.v_proj.weight]
    copied(ours, {"query_key_value/kernel": torch.cat(projections).T, "output/kernel": theirs.o_proj.weight.T})
    states = torch.from_numpy(x)
    angles = LlamaRotaryEmbedding(config)(states, torch.arange(T)[None])
    hidden = torch.full((T, T), -torch.inf).triu(1)[None, None]
    with torch.no_grad():
        expected, scores = theirs(states, position_embeddings=angles, attention_mask=hidden)
    output, probabilities = ours(x, return_attention_scores=True)
    np.testing.assert_allclose(output, expected, **TOLERANCE)
    np.testing.assert_allclose(probabilities, scores, **TOLERANCE)


def test_a_block_is_gpt2s(x, gpt2):
    theirs = gpt2.transformer.h[1]
    ours = kerasllm.layers.TransformerBlock(D, H, F, positions=None, activation="gelu_tanh")
    ours.build(x.shape)
    copied(ours, gpt2_block_weights(theirs))
    hidden = torch.full((T, T), -torch.inf).triu(1)[None, None]
    with torch.no_grad():
        expected = theirs(torch.from_numpy(x), attention_mask=hidden)
    expected = expected[0] if isinstance(expected, tuple) else expected
    np.testing.assert_allclose(ours(x), expected, **TOLERANCE)


def test_a_model_is_gpt2_and_so_are_its_loss_and_its_greedy_text(gpt2):
    sizes = {"vocab_size": V, "num_layers": 2, "d_model": D, "num_heads": H, "dff": F, "max_length": T}
    ours = kerasllm.models.CausalLM(kerasllm.models.TransformerConfig.preset("gpt2", **sizes))
    body = gpt2.transformer
    blocks = (
        {f"block_{i}/{name}": tensor for name, tensor in gpt2_block_weights(block).items()}
        for i, block in enumerate(body.h)
    )
    arrays = {
        "token_embedding/embeddings": body.wte.weight,
        "position_embedding/embeddings": body.wpe.weight,
        "final_norm/gamma": body.ln_f.weight,
        "final_norm/beta": body.ln_f.bias,
    }
    for block in blocks:
        arrays |= block
    copied(ours, arrays)
    assert sum(weight.shape.num_elements() for weight in runs.weight_names(ours).values()) == gpt2.num_parameters()

    ids = np.random.default_rng(1).integers(V, size=(3, T))
    with torch.no_grad():
        expected = gpt2(torch.from_numpy(ids), labels=torch.from_numpy(ids))
        greedy = gpt2.generate(torch.from_numpy(ids[:1, :6]), max_new_tokens=12, do_sample=False, pad_token_id=0)
    np.testing.assert_allclose(ours(ids), expected.logits, atol=1e-4, rtol=1e-4)
    ours.compile()
    loss = ours.evaluate(ids[:, :-1], ids[:, 1:], verbose=0, return_dict=True)["loss"]
    assert loss == pytest.approx(float(expected.loss), rel=1e-5)
    made = kerasllm.generation.generate_ids(ours, [ids[0, :6].tolist()], max_new_tokens=12)
    assert made[0] == greedy[0, 6:].tolist()
