"""Layers and whole models beside transformers on torch, from the same weights: the same numbers must come out."""

import keras
import numpy as np
import pytest

from kerasllm.layers import MultiHeadAttention, RelativePositionBias, TransformerBlock
from kerasllm.models import CausalLM, MaskedLM, TransformerConfig

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch==2.13.0")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install kerasllm[parity]")

from transformers.models.gpt2.modeling_gpt2 import GPT2Attention, GPT2Block  # noqa: E402
from transformers.models.llama.modeling_llama import (  # noqa: E402
    LlamaAttention,
    LlamaDecoderLayer,
    LlamaRotaryEmbedding,
)
from transformers.models.t5.modeling_t5 import T5Attention  # noqa: E402

pytestmark = pytest.mark.parity

B, T, D, H, F, V = 3, 11, 24, 4, 40, 50
X = np.random.default_rng(0).normal(size=(B, T, D)).astype("float32")
IDS = np.random.default_rng(1).integers(0, V, (B, T))
LENGTHS = np.array([11, 4, 7])
GPT2 = transformers.GPT2Config(
    vocab_size=V, n_positions=16, n_embd=D, n_layer=3, n_head=H, n_inner=F, attn_implementation="eager"
)
LLAMA = transformers.LlamaConfig(
    vocab_size=V, hidden_size=D, intermediate_size=F, num_hidden_layers=3, num_attention_heads=H, num_key_value_heads=2,
    max_position_embeddings=16, rope_parameters={"rope_type": "default", "rope_theta": 500.0}, rms_norm_eps=1e-3,
    attn_implementation="eager",
)  # fmt: skip

BERT = transformers.BertConfig(
    vocab_size=V, max_position_embeddings=16, hidden_size=D, num_hidden_layers=3, num_attention_heads=H,
    intermediate_size=F, attn_implementation="eager",
)  # fmt: skip


def scrambled(module):
    """Weights far from their initial values."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in module.named_parameters():
        is_scale = parameter.ndim == 1 and name.endswith("weight")
        parameter.data.normal_(1.0 if is_scale else 0.0, 0.3, generator=generator)
    return module.eval()


def linear(module):
    """A torch `Linear` or `Conv1D` as the weights of a Keras `Dense`."""
    transpose = isinstance(module, torch.nn.Linear)
    weights = {"kernel": module.weight.T if transpose else module.weight}
    return weights if getattr(module, "bias", None) is None else {**weights, "bias": module.bias}


def side_by_side(*modules):
    """Several projections of one input as one."""
    return {"kernel": torch.cat([linear(module)["kernel"] for module in modules], dim=1)}


def gpt2_attention(module):
    return {"query_key_value": linear(module.c_attn), "output": linear(module.c_proj)}


def llama_attention(module):
    return {
        "query_key_value": side_by_side(module.q_proj, module.k_proj, module.v_proj),
        "output": linear(module.o_proj),
    }


def torch_norm(module):
    return {"gamma": module.weight, "beta": module.bias}


def gpt2_block(module):
    return {
        "attention_norm": torch_norm(module.ln_1),
        "attention": gpt2_attention(module.attn),
        "feed_forward_norm": torch_norm(module.ln_2),
        "feed_forward": {"inner": linear(module.mlp.c_fc), "outer": linear(module.mlp.c_proj)},
    }


def llama_block(module):
    return {
        "attention_norm": {"scale": module.input_layernorm.weight},
        "attention": llama_attention(module.self_attn),
        "feed_forward_norm": {"scale": module.post_attention_layernorm.weight},
        "feed_forward": {
            "inner": side_by_side(module.mlp.gate_proj, module.mlp.up_proj),
            "outer": linear(module.mlp.down_proj),
        },
    }


def gpt2_model(module):
    blocks = {f"block_{i}": gpt2_block(block) for i, block in enumerate(module.transformer.h)}
    positions = {"position_embedding": {"embeddings": module.transformer.wpe.weight}}
    return {
        "token_embedding": {"embeddings": module.transformer.wte.weight},
        "transformer": {**blocks, **positions, "final_norm": torch_norm(module.transformer.ln_f)},
    }


def llama_model(module):
    blocks = {f"block_{i}": llama_block(block) for i, block in enumerate(module.model.layers)}
    embedding, output = module.model.embed_tokens.weight, module.lm_head.weight.T
    return {
        "token_embedding": {"embeddings": embedding, "reverse_embeddings": output},
        "transformer": {**blocks, "final_norm": {"scale": module.model.norm.weight}},
    }


def bert_block(module):
    attention, output = module.attention.self, module.attention.output
    return {
        "attention": {
            "query_key_value": {
                **side_by_side(attention.query, attention.key, attention.value),
                "bias": torch.cat([attention.query.bias, attention.key.bias, attention.value.bias]),
            },
            "output": linear(output.dense),
        },
        "attention_norm": torch_norm(output.LayerNorm),
        "feed_forward": {"inner": linear(module.intermediate.dense), "outer": linear(module.output.dense)},
        "feed_forward_norm": torch_norm(module.output.LayerNorm),
    }


def bert_model(module):
    embeddings, head = module.bert.embeddings, module.cls.predictions
    blocks = {f"block_{i}": bert_block(block) for i, block in enumerate(module.bert.encoder.layer)}
    return {
        "token_embedding": {"embeddings": embeddings.word_embeddings.weight},
        "token_type_embedding": {"embeddings": embeddings.token_type_embeddings.weight},
        "transformer": {
            **blocks,
            "position_embedding": {"embeddings": embeddings.position_embeddings.weight},
            "input_norm": torch_norm(embeddings.LayerNorm),
        },
        "head_dense": linear(head.transform.dense),
        "head_norm": torch_norm(head.transform.LayerNorm),
        "output_bias": head.bias,
    }


def with_weights(layer, nested):
    """Gives a built layer the weights of a nested dict, which must name each of them."""

    def flatten(nested, path=""):
        for name, value in nested.items():
            yield from flatten(value, f"{path}/{name}") if isinstance(value, dict) else [(f"{path}/{name}", value)]

    variables = {f"/{v.path.partition('/')[2]}": v for v in layer.weights}
    weights = dict(flatten(nested))
    assert variables.keys() == weights.keys()
    for path, weight in weights.items():
        variables[path].assign(weight.detach().numpy())
    return layer


def assert_close(ours, theirs, tolerance=2e-5):
    np.testing.assert_allclose(keras.ops.convert_to_numpy(ours), theirs.numpy(), atol=tolerance, rtol=tolerance)


def causal_mask(visible=None):
    """What transformers adds to the scores."""
    mask = np.tril(np.ones((T, T), bool))[None, None]
    if visible is not None:
        mask = mask & visible[:, None, None]
    return torch.tensor(np.where(mask, 0, np.finfo("float32").min), dtype=torch.float32)


VISIBLE = np.arange(T) < LENGTHS[:, None]


@torch.no_grad()
def test_attention_equals_gpt2_attention():
    theirs = scrambled(GPT2Attention(GPT2, layer_idx=0))
    ours = MultiHeadAttention(D, H, causal=True)
    ours.build(X.shape)
    with_weights(ours, gpt2_attention(theirs))
    output, scores = ours(X, mask=VISIBLE, return_attention_scores=True)
    expected = theirs(torch.tensor(X), attention_mask=causal_mask(VISIBLE), output_attentions=True)
    assert_close(output, expected[0])
    assert_close(scores, expected[1])


def llama_positions():
    position_ids = torch.arange(T)[None] + torch.tensor([[0], [2], [30]])
    return position_ids.numpy(), LlamaRotaryEmbedding(LLAMA)(torch.tensor(X), position_ids)


@torch.no_grad()
def test_attention_equals_llama_attention():
    theirs = scrambled(LlamaAttention(LLAMA, layer_idx=0))
    position_ids, rotations = llama_positions()
    ours = MultiHeadAttention(
        D, H, num_kv_heads=2, positions="rotary", rope_theta=500.0, causal=True, use_bias=False
    )  # fmt: skip
    ours.build(X.shape)
    with_weights(ours, llama_attention(theirs))
    output, scores = ours(X, position_ids=position_ids, return_attention_scores=True)
    expected = theirs(torch.tensor(X), position_embeddings=rotations, attention_mask=causal_mask())
    assert_close(output, expected[0])
    assert_close(scores, expected[1])


@torch.no_grad()
def test_block_equals_gpt2_block():
    theirs = scrambled(GPT2Block(GPT2, layer_idx=0))
    ours = TransformerBlock(D, H, F, positions=None, activation="gelu_tanh")
    ours.build(X.shape)
    expected = theirs(torch.tensor(X), attention_mask=causal_mask(VISIBLE))
    expected = expected[0] if isinstance(expected, tuple) else expected
    assert_close(with_weights(ours, gpt2_block(theirs))(X, mask=VISIBLE), expected)


@torch.no_grad()
def test_block_equals_llama_decoder_layer():
    theirs = scrambled(LlamaDecoderLayer(LLAMA, layer_idx=0))
    position_ids, rotations = llama_positions()
    ours = TransformerBlock(
        D, H, F, num_kv_heads=2, rope_theta=500.0, norm="rms", norm_epsilon=1e-3, activation="silu", gated=True,
        use_bias=False,
    )  # fmt: skip
    ours.build(X.shape)
    expected = theirs(torch.tensor(X), position_embeddings=rotations, attention_mask=causal_mask())
    assert_close(with_weights(ours, llama_block(theirs))(X, position_ids=position_ids), expected)


FAMILIES = {
    "gpt2": (transformers.GPT2LMHeadModel, GPT2, gpt2_model, {}),
    "llama": (
        transformers.LlamaForCausalLM,
        LLAMA,
        llama_model,
        {"num_kv_heads": 2, "rope_theta": 500.0, "norm_epsilon": 1e-3},
    ),
}


@torch.no_grad()
@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize(("model_class", "config", "weights", "options"), FAMILIES.values(), ids=FAMILIES)
def test_model_equals_transformers_on_a_padded_batch(model_class, config, weights, options, padding):
    theirs = scrambled(model_class(config))
    family, sizes = config.model_type, {"vocab_size": V, "num_layers": 3, "d_model": D, "num_heads": H, "dff": F}
    ours = CausalLM(TransformerConfig.preset(family, **sizes, max_length=16, **options))
    assert ours.config.num_parameters() == theirs.num_parameters()
    with_weights(ours, weights(theirs))
    visible = VISIBLE if padding == "right" else VISIBLE[:, ::-1].copy()
    position_ids = np.maximum(np.cumsum(visible, axis=1) - 1, 0)
    expected = theirs(
        torch.tensor(IDS), attention_mask=torch.tensor(visible), position_ids=torch.tensor(position_ids)
    ).logits
    logits = keras.ops.convert_to_numpy(ours(IDS, padding_mask=visible, position_ids=position_ids))
    assert_close(logits[visible], expected[torch.tensor(visible)], tolerance=1e-4)


@torch.no_grad()
def test_masked_model_equals_bert_on_a_padded_batch():
    theirs = scrambled(transformers.BertForMaskedLM(BERT))
    sizes = {"vocab_size": V, "num_layers": 3, "d_model": D, "num_heads": H, "dff": F, "max_length": 16}
    ours = with_weights(MaskedLM(TransformerConfig.preset("bert", **sizes)), bert_model(theirs))
    assert ours.count_params() == theirs.num_parameters()
    for types in (np.zeros_like(IDS), np.random.default_rng(2).integers(0, 2, (B, T))):
        expected = theirs(
            torch.tensor(IDS), attention_mask=torch.tensor(VISIBLE), token_type_ids=torch.tensor(types)
        ).logits
        inputs = {"token_ids": IDS, "token_type_ids": types} if types.any() else IDS
        logits = keras.ops.convert_to_numpy(ours(inputs, padding_mask=VISIBLE))
        assert_close(logits[VISIBLE], expected[torch.tensor(VISIBLE)], tolerance=1e-4)


@pytest.mark.parametrize("causal", [True, False])
def test_relative_positions_share_buckets_as_t5_does(causal):
    layer = RelativePositionBias(1, causal)
    layer.build()
    layer.embeddings.assign(np.arange(32)[:, None])
    query, key = np.arange(400), np.arange(400)
    expected = T5Attention._relative_position_bucket(torch.tensor(key[None] - query[:, None]), bidirectional=not causal)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer(query, key))[0, 0], expected.numpy())
