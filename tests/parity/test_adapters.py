"""Adapters beside PEFT's (0.21.2): the same outputs and gradients, and folders that go both ways."""

import numpy as np
import pytest
import tensorflow as tf

import kerasllm
from kerasllm import adapters
from kerasllm.huggingface.families import FAMILIES
from kerasllm.layers.composite import layers_inside
from kerasllm.models import Seq2SeqLM, SequenceClassifier, TextEmbedder
from kerasllm.tokenizers import Tokenizer

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch==2.13.0")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install kerasllm[parity]")
peft = pytest.importorskip("peft", reason="PEFT is not installed: pip install --no-deps peft==0.21.2 accelerate")
from safetensors.numpy import load_file  # noqa: E402

pytestmark = pytest.mark.parity

V, T = 61, 12
LLAMA = {
    **{"vocab_size": V, "max_position_embeddings": 32, "num_hidden_layers": 2, "hidden_size": 24},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 40, "head_dim": 10},
}
BERT = {
    **{"vocab_size": V, "max_position_embeddings": 32, "num_hidden_layers": 2, "hidden_size": 24},
    **{"num_attention_heads": 3, "intermediate_size": 40, "num_key_value_heads": 3, "hidden_act": "gelu"},
    **{"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "hidden_dropout": 0.0},
}
GPT2 = {"vocab_size": V, "n_positions": 32, "n_layer": 2, "n_embd": 24, "n_head": 3, "n_inner": 52}
BART = {
    **{"vocab_size": V, "max_position_embeddings": 32, "d_model": 24, "pad_token_id": 1},
    **{"dropout": 0.0, "attention_dropout": 0.0},
    **{f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in {"layers": 1, "ffn_dim": 40}.items()},
    **{f"{side}_attention_heads": 3 for side in ("encoder", "decoder")},
}
OPT = {**BERT, "ffn_dim": 40, "word_embed_proj_dim": 24, "dropout": 0.0}
T5 = {"vocab_size": V, "d_model": 24, "num_layers": 1, "num_heads": 3, "d_kv": 8, "d_ff": 40, "dropout_rate": 0.0}
T5["feed_forward_proj"] = "gated-gelu"
ROBERTA = {**BERT, "max_position_embeddings": 34}
SIZES = {
    **dict.fromkeys(FAMILIES, LLAMA),
    "gpt2": {**GPT2, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    **dict.fromkeys(["gpt_neox", "olmo2", "olmoe", "nanochat", "bert", "ernie", "distilbert"], BERT),
    **dict.fromkeys(["roberta", "xlm-roberta", "mpnet"], ROBERTA),
    "opt": OPT,
    "phi3": {**BERT, "pad_token_id": 0},
    "smollm3": {**LLAMA, "pad_token_id": 0},
    "modernbert": {**BERT, "local_attention": 4, "pad_token_id": 0},
    **{kind: {**BERT, "embedding_size": 10} for kind in ("albert", "electra")},
    "deberta-v2": {
        **{**BERT, "relative_attention": True, "position_buckets": 8, "norm_rel_ebd": "layer_norm"},
        **{"share_att_key": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False},
    },
    "distilbert": {
        **{"vocab_size": V, "max_position_embeddings": 32, "n_layers": 2, "dim": 24, "n_heads": 3, "hidden_dim": 40},
        **{"dropout": 0.0, "attention_dropout": 0.0},
    },
    **dict.fromkeys(["bart", "mbart", "m2m_100"], BART),
    "marian": {**BART, "pad_token_id": V - 1, "decoder_start_token_id": V - 1, "eos_token_id": 0},
    **dict.fromkeys(["t5", "mt5"], T5),
}
KINDS = ("lora", "rslora", "dora")
ALL_KINDS = ("gpt2", "llama", "bert", "ernie4_5", "nanochat", "gpt_neox")
CASES = [(family, kind) for family in ALL_KINDS for kind in KINDS]
CASES += [(f, KINDS[i % 3]) for i, f in enumerate(FAMILIES) if f not in ALL_KINDS]
MIXTURES = ("mixtral", "qwen3_moe", "olmoe")  # of which experts have no adapters here
IDS = np.random.default_rng(0).integers(5, V - 1, (2, T))
TARGETS = np.random.default_rng(1).integers(5, V - 1, (2, T))
UPSTREAM = np.random.default_rng(2).normal(size=(2, T, V)).astype("float32") / 30


@pytest.fixture(scope="module")
def base(request, tmp_path_factory):
    """The folder of a base with weights far from their initial values."""
    kind = request.param
    torch.manual_seed(0)
    config = transformers.CONFIG_MAPPING[kind](**SIZES[kind], attn_implementation="eager")
    model = getattr(transformers, FAMILIES[kind].architecture)(config)
    for name, parameter in model.named_parameters():
        is_scale = parameter.ndim == 1 and name.endswith("weight") and "gemma" not in kind
        if parameter.requires_grad:
            parameter.data.normal_(1.0 if is_scale else 0.0, 0.15)
    folder = tmp_path_factory.mktemp(kind)
    model.save_pretrained(folder)
    letters = "".join(chr(ord("a") + i) for i in range(26)) + " .,!"
    Tokenizer.train([letters], kind="char", progress=False).save(folder)
    return folder, type(model)


def their_logits(model):
    if model.config.is_encoder_decoder:
        return model(torch.tensor(IDS), decoder_input_ids=torch.tensor(TARGETS)).logits
    return model(torch.tensor(IDS)).logits


def our_logits(model, **options):
    if isinstance(model, Seq2SeqLM):
        return model({"source_ids": IDS, "target_ids": TARGETS}, **options)
    return model(IDS, **options)


def adapted(folder, architecture, kind, **options):
    """A model of PEFT's whose adapters have learned something."""
    model = architecture.from_pretrained(folder, attn_implementation="eager")
    targets = "all-linear" if model.config.model_type not in MIXTURES else [f"{part}_proj" for part in "qkvo"]
    options = {"target_modules": targets, "use_rslora": kind == "rslora", "use_dora": kind == "dora", **options}
    model = peft.get_peft_model(model, peft.LoraConfig(r=3, lora_alpha=5, lora_dropout=0.0, **options)).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "lora_embedding" in name or "trainable_tokens_delta.default" in name:
            parameter.data.add_(0.15 * torch.randn_like(parameter))
        elif "magnitude" in name:
            parameter.data.mul_(1 + 0.2 * torch.rand_like(parameter))
    return model


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("base, kind", CASES, indirect=["base"], ids=lambda value: str(value))
def test_adapters_are_those_of_peft(base, kind, tmp_path):
    folder, architecture = base
    check_same(folder, architecture, adapted(folder, architecture, kind), tmp_path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("base", ["llama"], indirect=True)
def test_adapters_of_tables_are_those_of_peft(base, kind, tmp_path):
    folder, architecture = base
    theirs = adapted(folder, architecture, kind, target_modules=["q_proj", "embed_tokens", "lm_head"])
    check_same(folder, architecture, theirs, tmp_path)


@pytest.mark.parametrize("kind", ["lora", "rslora"])
@pytest.mark.parametrize("base", ["gemma"], indirect=True)
def test_adapters_of_a_table_of_both_sides_are_those_of_peft(base, kind, tmp_path):
    folder, architecture = base
    targets = {"target_modules": ["q_proj", "embed_tokens"]}
    theirs = adapted(folder, architecture, kind, **targets, ensure_weight_tying=True)
    check_same(folder, architecture, theirs, tmp_path)
    adapted(folder, architecture, kind, **targets).save_pretrained(tmp_path / "alone")
    ours, _ = kerasllm.huggingface.load(folder)
    with pytest.raises(ValueError, match=r"adapts model.embed_tokens alone, whose table is that of lm_head here too"):
        adapters.load(ours, tmp_path / "alone")


@pytest.mark.parametrize("base", ["gpt2", "llama"], indirect=True)  # the first is tied
def test_rows_of_tokens_are_those_of_peft(base, tmp_path):
    folder, architecture = base
    names = ("embed_tokens", "lm_head") if architecture is transformers.LlamaForCausalLM else ("wte",)
    theirs = adapted(folder, architecture, "lora", trainable_token_indices={name: [2, 3, 11] for name in names})
    check_same(folder, architecture, theirs, tmp_path)


def check_same(folder, architecture, theirs, tmp_path):
    """Whether outputs and gradients of a model of PEFT's are ours, and its folder is read and written."""
    theirs.save_pretrained(tmp_path / "theirs")
    logits = their_logits(theirs)
    logits.backward(torch.tensor(UPSTREAM))

    ours, _ = kerasllm.huggingface.load(folder)
    plain = np.array(our_logits(ours))
    adapters.load(ours, tmp_path / "theirs")
    expected = logits.detach().numpy()
    assert np.abs(expected - plain).max() > 0.05
    close(our_logits(ours), expected)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(our_logits(ours, training=True) * UPSTREAM)
    weights = ours.trainable_weights
    gradients = tape.gradient(loss, [weight.value for weight in weights])

    adapters.save(ours, tmp_path / "ours")
    before, after = (load_file(tmp_path / side / "adapter_model.safetensors") for side in ("theirs", "ours"))
    before = {name: array for name, array in before.items() if ".base_layer." not in name}
    assert before.keys() == after.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array, err_msg=name)
    again = peft.PeftModel.from_pretrained(architecture.from_pretrained(folder), tmp_path / "ours").eval()
    close(their_logits(again).detach().numpy(), expected)

    values = [np.array(weight) for weight in weights]
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.assign(gradient)
    adapters.save(ours, tmp_path / "gradients")
    of_theirs = {name.replace(".default", ""): p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    ties = theirs.peft_config["default"].ensure_weight_tying
    for one, other in (("A", "B"), ("B", "A")) if ties else ():  # of one tensor, each side its part
        of_output = of_theirs.pop(f"base_model.model.lm_head.lora_{other}.weight")
        of_theirs[f"base_model.model.model.embed_tokens.lora_embedding_{one}"] += of_output.T
    for name, array in load_file(tmp_path / "gradients" / "adapter_model.safetensors").items():
        name = f"{name}.weight" if name.endswith("magnitude_vector") else name
        if not (ties and ".lm_head." in name):
            close(array, of_theirs.pop(name).numpy())
    assert not of_theirs

    for weight, value in zip(weights, values, strict=True):
        weight.assign(value)
    with adapters.disabled(ours):
        np.testing.assert_array_equal(our_logits(ours), plain)
    adapters.merge(ours)
    assert not any(isinstance(layer, kerasllm.layers.LowRank) for _, layer, _ in layers_inside(ours))
    close(our_logits(ours), expected)


@pytest.mark.parametrize("base", ["llama"], indirect=True)
def test_ranks_and_scales_of_single_modules_and_whole_ones(base, tmp_path):
    folder, architecture = base
    patterns = {"rank_pattern": {"q_proj": 5, "layers.1.mlp.up_proj": 1}, "alpha_pattern": {"v_proj|o_proj": 9}}
    theirs = adapted(folder, architecture, "rslora", **patterns, modules_to_save=["norm", "lm_head"])
    for name, parameter in theirs.named_parameters():
        if "modules_to_save" in name:
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path / "theirs")
    ours, _ = kerasllm.huggingface.load(folder)
    adapters.load(ours, tmp_path / "theirs")
    expected = their_logits(theirs).detach().numpy()
    close(our_logits(ours), expected)
    adapters.save(ours, tmp_path / "ours")
    again = peft.PeftModel.from_pretrained(architecture.from_pretrained(folder), tmp_path / "ours").eval()
    close(their_logits(again).detach().numpy(), expected)


@pytest.mark.parametrize("base", ["gpt2", "llama", "bert"], indirect=True)
def test_as_many_weights_are_trained(base):
    folder, architecture = base
    theirs = adapted(folder, architecture, "dora")
    ours, _ = kerasllm.huggingface.load(folder)
    everything = None if architecture is not transformers.BertForMaskedLM else ["block_*", "head_dense"]
    adapters.add(ours, 3, 5, "dora", layers=everything)
    count = sum(int(np.prod(weight.shape)) for weight in ours.trainable_weights)
    assert count == sum(p.numel() for p in theirs.parameters() if p.requires_grad)
    limits = {
        float(np.abs(np.array(w)).max() * w.shape[0] ** 0.5) for w in ours.trainable_weights if "lora_a" in w.path
    }
    assert min(limits) > 0.8 and max(limits) <= 1


@pytest.mark.parametrize("base", ["roberta", "llama"], indirect=True)
def test_embedders_are_those_of_peft(base, tmp_path):
    folder, _ = base
    ours, again = (TextEmbedder.from_model(kerasllm.load(folder)[0], normalize=False) for _ in range(2))
    adapters.add(ours, 3, 5)
    for weight in ours.trainable_weights:
        weight.assign(np.random.default_rng(0).normal(scale=0.3, size=weight.shape))
    adapters.save(ours, tmp_path / "ours")
    theirs = peft.PeftModel.from_pretrained(transformers.AutoModel.from_pretrained(folder), tmp_path / "ours").eval()
    with torch.no_grad():
        close(ours(IDS), theirs(torch.tensor(IDS)).last_hidden_state.mean(1).numpy())
    theirs.save_pretrained(tmp_path / "theirs")
    adapters.load(again, tmp_path / "theirs")
    np.testing.assert_array_equal(again(IDS), ours(IDS))


@pytest.mark.parametrize("base", ["bert", "roberta", "llama"], indirect=True)
def test_classifiers_are_those_of_peft(base, tmp_path):
    folder, _ = base

    def headed():
        return SequenceClassifier.from_model(kerasllm.load(folder)[0], 3)

    ours, draw = headed(), np.random.default_rng(0)
    adapters.add(ours, 3, 5, train_also=[layer.name for layer in ours.layers if layer.name.startswith("head_")])
    for weight in ours.trainable_weights:
        weight.assign(draw.normal(scale=0.3, size=weight.shape))
    adapters.save(ours, tmp_path / "ours")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)
    theirs.config.pad_token_id = theirs.config.pad_token_id or 0
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "ours", is_trainable=True).eval()
    assert theirs.peft_config["default"].task_type == "SEQ_CLS"
    logits = theirs(torch.tensor(IDS)).logits
    close(ours(IDS), logits.detach().numpy())
    count = sum(int(np.prod(weight.shape)) for weight in ours.trainable_weights)
    assert count == sum(p.numel() for p in theirs.parameters() if p.requires_grad)

    theirs.save_pretrained(tmp_path / "theirs")
    again = headed()
    adapters.load(again, tmp_path / "theirs")
    np.testing.assert_array_equal(again(IDS), ours(IDS))
