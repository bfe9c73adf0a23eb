"""What is found inside a model, beside captum and TransformerLens on the same torch weights."""

import numpy as np
import pytest

import kerasllm
from kerasllm import interpret
from kerasllm.tokenizers import Tokenizer

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch==2.13.0")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install kerasllm[parity]")

pytestmark = pytest.mark.parity

V, T = 300, 9
IDS = np.random.default_rng(0).integers(3, V, (1, T))
CONFIGS = {
    "gpt2": transformers.GPT2Config(vocab_size=V, n_positions=32, n_embd=24, n_layer=2, n_head=3, n_inner=40),
    "llama": transformers.LlamaConfig(
        vocab_size=V, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32,
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request, tmp_path_factory, tokenizer):
    """A model of transformers with weights far from their initial values, and ours that was loaded from its folder."""
    torch.manual_seed(0)
    CONFIGS[request.param]._attn_implementation = "eager"
    theirs = transformers.AutoModelForCausalLM.from_config(CONFIGS[request.param]).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            is_scale = parameter.ndim == 1 and name.endswith("weight")
            parameter.normal_(1.0 if is_scale else 0.0, 0.3)
    folder = tmp_path_factory.mktemp(request.param)
    theirs.save_pretrained(folder)
    tokenizer.save(folder)
    ours, _ = kerasllm.huggingface.load(folder)
    return theirs, ours


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([], kind="byte", progress=False)


def embeddings(theirs):
    return theirs.get_input_embeddings()(torch.tensor(IDS)).detach()


def next_logit(theirs, token):
    return lambda x: theirs(inputs_embeds=x, use_cache=False).logits[:, -1, token]


@pytest.mark.parametrize("method", ["integrated_gradients", "gradient_x_input", "occlusion"])
def test_saliency_is_captums(pair, tokenizer, method):
    attr = pytest.importorskip("captum.attr", reason="captum is not installed: pip install captum")
    theirs, ours = pair
    token, x = 5, embeddings(pair[0])
    function = next_logit(theirs, token)
    if method == "integrated_gradients":
        expected = attr.IntegratedGradients(function).attribute(x, n_steps=64, method="gausslegendre")
    elif method == "gradient_x_input":
        expected = attr.InputXGradient(function).attribute(x)
    else:
        shape = (1, x.shape[-1])
        expected = attr.Occlusion(function).attribute(x, sliding_window_shapes=shape) / x.shape[-1]
    options = {"steps": 64} if method == "integrated_gradients" else {}
    options |= {"method": method, "baseline": "zeros"}
    found = interpret.saliency(ours, tokenizer, IDS[0].tolist(), [token], **options)
    expected = expected.detach().numpy().sum(axis=-1)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found.values, expected, atol=1e-4)


def test_activations_are_those_of_transformer_lens(pair):
    builder = pytest.importorskip(
        "transformer_lens.model_bridge.sources._bridge_builder", reason="pip install transformer-lens"
    )
    theirs, ours = pair
    found = {name.removeprefix("transformer/"): array for name, array in interpret.activations(ours, IDS).items()}
    bridge = builder.build_bridge_from_module(theirs, type(theirs).__name__, hf_config=theirs.config)
    _, cache = bridge.run_with_cache(torch.tensor(IDS))
    cache = {name: value.detach().numpy() for name, value in cache.items() if hasattr(value, "detach")}
    np.testing.assert_allclose(found["final_norm"], cache["ln_final.hook_out"], atol=1e-4)
    heads = {"query": "hook_q", "key": "hook_k", "value": "hook_v", "heads": "hook_z"}
    for i in range(2):
        theirs_of = {
            "input": "hook_resid_pre",
            "before_feed_forward": "hook_resid_mid",
            "output": "hook_resid_post",
            "attention/output": "hook_attn_out",
            "feed_forward/output": "hook_mlp_out",
            "attention/probabilities": "attn.hook_pattern",
        }
        for name, other in theirs_of.items():
            np.testing.assert_allclose(
                found[f"block_{i}/{name}"], cache[f"blocks.{i}.{other}"], atol=1e-4, err_msg=name
            )
        for name, other in heads.items():
            array = found[f"block_{i}/attention/{name}"].transpose(0, 2, 1, 3)
            expected = cache[f"blocks.{i}.attn.{other}"].reshape(array.shape)
            np.testing.assert_allclose(array, expected, atol=1e-4, err_msg=name)
