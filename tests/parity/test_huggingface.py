"""Checkpoints that transformers wrote, read here and written back: the same logits, the same names, the same text."""

import json

import keras
import numpy as np
import pytest

import kerasllm
from kerasllm.cli import main
from kerasllm.generation import generate_ids
from kerasllm.generation.beam_search import blank_targets, search_rule, search_settings, search_targets, start_rule
from kerasllm.generation.settings import BeamSettings
from kerasllm.huggingface.families import FAMILIES
from kerasllm.models import CausalLM, MaskedLM, Seq2SeqLM
from kerasllm.tokenizers import Tokenizer

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch==2.13.0")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install kerasllm[parity]")
from safetensors.numpy import load_file, save_file  # noqa: E402

pytestmark = pytest.mark.parity

V, T = 61, 40
LENGTHS = np.array([T, 17, 29])
GPT2 = {"vocab_size": V, "n_positions": 128}
LLAMA = {"vocab_size": V, "max_position_embeddings": 128}
BERT = {"vocab_size": V, "max_position_embeddings": 64}
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 20}


def sizes(layers, width, heads, inner, **more):
    return {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        **more,
    }


def opt(layers, width, heads, inner):
    return {**sizes(layers, width, heads, inner), "ffn_dim": inner, "word_embed_proj_dim": width}


LLAMA_SIZES = [
    sizes(2, 24, 3, 40, num_key_value_heads=3),
    sizes(3, 24, 6, 28, num_key_value_heads=2, head_dim=10, rms_norm_eps=1e-3),
    sizes(1, 32, 4, 52, num_key_value_heads=1),
]


def rope(kind="default", **more):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 500.0, **more}}


DEBERTA = {
    **{"relative_attention": True, "position_buckets": 16, "norm_rel_ebd": "layer_norm", "share_att_key": True},
    **{"pos_att_type": "p2c|c2p", "position_biased_input": False},
}
WINDOW, EVERYTHING = "sliding_attention", "full_attention"
LLAMA_3 = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
CASES = {
    "gpt2": [
        {**GPT2, "n_layer": 2, "n_embd": 24, "n_head": 3, "n_inner": 52},
        {**GPT2, "n_layer": 3, "n_embd": 20, "n_head": 5, "layer_norm_epsilon": 1e-3, "tie_word_embeddings": False},
        {**GPT2, "n_layer": 1, "n_embd": 28, "n_head": 1, "activation_function": "relu"},
    ],
    "gpt_neox": [
        {**LLAMA, **sizes(2, 24, 3, 40)},
        {**LLAMA, **sizes(3, 20, 2, 28), **rope(partial_rotary_factor=0.6), "use_parallel_residual": False},
        {
            **LLAMA,
            **sizes(2, 28, 1, 52, layer_norm_eps=1e-3),
            **rope(partial_rotary_factor=1.0),
            "hidden_act": "gelu_new",
            "attention_bias": False,
            "tie_word_embeddings": True,
        },
    ],
    "opt": [
        {**LLAMA, **opt(2, 24, 3, 40)},
        {**LLAMA, **opt(3, 20, 5, 28), "do_layer_norm_before": False, "activation_function": "gelu"},
        {**LLAMA, **opt(1, 28, 1, 52), "tie_word_embeddings": False},
    ],
    "llama": [
        {**LLAMA, **LLAMA_SIZES[0], **rope()},
        {**LLAMA, **LLAMA_SIZES[1], **rope("llama3", **LLAMA_3), "tie_word_embeddings": True},
        {**LLAMA, **LLAMA_SIZES[2], **rope("linear", factor=3.0), "attention_bias": True},
    ],
    "mistral": [
        {**LLAMA, **LLAMA_SIZES[0], **rope(), "sliding_window": 7},
        {**LLAMA, **LLAMA_SIZES[1], **rope(), "sliding_window": None},
        {**LLAMA, **LLAMA_SIZES[2], **rope(), "sliding_window": 1, "tie_word_embeddings": True},
    ],
    "ministral": [
        {**LLAMA, **LLAMA_SIZES[0], "head_dim": 8, "sliding_window": 7, "layer_types": [WINDOW, EVERYTHING]},
        {**LLAMA, **LLAMA_SIZES[1], "sliding_window": 5, "layer_types": [EVERYTHING, WINDOW, WINDOW]},
        {**LLAMA, **LLAMA_SIZES[2], **rope(), "head_dim": 8, "sliding_window": 1, "tie_word_embeddings": True},
    ],
    "qwen2": [
        {**LLAMA, **LLAMA_SIZES[0], **rope()},
        {
            **LLAMA,
            **sizes(3, 24, 6, 28, num_key_value_heads=2, rms_norm_eps=1e-3),
            "tie_word_embeddings": True,
            "use_sliding_window": True,
            "sliding_window": 5,
            "max_window_layers": 2,
        },
        {
            **LLAMA,
            **LLAMA_SIZES[2],
            **rope(),
            "use_sliding_window": True,
            "sliding_window": 9,
            "max_window_layers": 0,
        },
    ],
    "qwen3": [
        {**LLAMA, **LLAMA_SIZES[0], **rope(), "head_dim": 8},
        {**LLAMA, **LLAMA_SIZES[1], **rope(), "tie_word_embeddings": True, "attention_bias": True},
        {**LLAMA, **LLAMA_SIZES[2], "head_dim": 6, "rms_norm_eps": 1e-2},
    ],
    "mixtral": [
        {**LLAMA, **LLAMA_SIZES[0], **rope(), "num_local_experts": 4},
        {**LLAMA, **LLAMA_SIZES[1], **rope(), "num_local_experts": 5, "num_experts_per_tok": 3, "sliding_window": 7},
        {**LLAMA, **LLAMA_SIZES[2], "num_local_experts": 3, "num_experts_per_tok": 1, "tie_word_embeddings": True},
    ],
    "qwen3_moe": [
        {**LLAMA, **LLAMA_SIZES[0], **rope(), **EXPERTS, "norm_topk_prob": True, "head_dim": 8},
        {**LLAMA, **LLAMA_SIZES[1], **rope(), **EXPERTS, "num_experts_per_tok": 4, "attention_bias": True},
        {**LLAMA, **LLAMA_SIZES[2], **EXPERTS, "head_dim": 6, "tie_word_embeddings": True},
    ],
    "olmoe": [
        {**LLAMA, **LLAMA_SIZES[0], **rope(), "num_experts": 6, "num_experts_per_tok": 2},
        {
            **LLAMA,
            **sizes(3, 24, 6, 28, num_key_value_heads=2),
            **rope(),
            "num_experts": 4,
            "num_experts_per_tok": 3,
            "norm_topk_prob": True,
        },
        {**LLAMA, **LLAMA_SIZES[2], "num_experts": 4, "num_experts_per_tok": 1, "tie_word_embeddings": True},
    ],
    "gemma": [
        {**LLAMA, **LLAMA_SIZES[0], **rope(), "head_dim": 8},
        {**LLAMA, **LLAMA_SIZES[1], **rope()},
        {**LLAMA, **LLAMA_SIZES[2], "head_dim": 12, "rms_norm_eps": 1e-2, "hidden_act": "relu"},
    ],
    "ernie4_5": [
        {**LLAMA, **LLAMA_SIZES[0], "head_dim": 8},
        {**LLAMA, **LLAMA_SIZES[1], **rope(), "use_bias": True},
        {**LLAMA, **LLAMA_SIZES[2], **rope(), "head_dim": 6, "tie_word_embeddings": False},
    ],
    "gemma2": [
        {**LLAMA, **LLAMA_SIZES[0], **rope(), "head_dim": 8, "sliding_window": 7},
        {
            **LLAMA,
            **LLAMA_SIZES[1],
            **rope("linear", factor=3.0),
            "sliding_window": 5,
            "layer_types": [EVERYTHING, WINDOW, WINDOW],
            "query_pre_attn_scalar": 7,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
            "attention_bias": True,
        },
        {
            **LLAMA,
            **LLAMA_SIZES[2],
            "head_dim": 12,
            "layer_types": [EVERYTHING],
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "tie_word_embeddings": False,
        },
    ],
    "gemma3_text": [
        {**LLAMA, **LLAMA_SIZES[0], "head_dim": 8, "sliding_window": 7},
        {
            **LLAMA,
            **LLAMA_SIZES[1],
            "rope_parameters": {
                WINDOW: {"rope_type": "default", "rope_theta": 50.0},
                EVERYTHING: {"rope_type": "linear", "rope_theta": 500.0, "factor": 3.0},
            },
            "sliding_window": 5,
            "layer_types": [WINDOW, EVERYTHING, WINDOW],
            "query_pre_attn_scalar": 7,
            "final_logit_softcapping": 3.0,
            "attention_bias": True,
        },
        {**LLAMA, **LLAMA_SIZES[2], "head_dim": 12, "layer_types": [EVERYTHING], "tie_word_embeddings": False},
    ],
    "phi3": [
        {**LLAMA, **LLAMA_SIZES[0], **rope(), "pad_token_id": 0, "sliding_window": 7},
        {**LLAMA, **sizes(3, 24, 6, 28, num_key_value_heads=2), "pad_token_id": 0, "tie_word_embeddings": True},
        {**LLAMA, **LLAMA_SIZES[2], **rope(partial_rotary_factor=0.5), "pad_token_id": 0, "rms_norm_eps": 1e-2},
    ],
    "olmo2": [
        {**LLAMA, **LLAMA_SIZES[0], **rope()},
        {**LLAMA, **sizes(3, 24, 6, 28, num_key_value_heads=2, rms_norm_eps=1e-3), "attention_bias": True},
        {**LLAMA, **sizes(2, 32, 4, 52), **rope("llama3", **LLAMA_3), "tie_word_embeddings": True},
    ],
    "arcee": [
        {**LLAMA, **LLAMA_SIZES[0], **rope()},
        {**LLAMA, **LLAMA_SIZES[1], **rope("yarn", factor=4.0), "tie_word_embeddings": True, "attention_bias": True},
        {**LLAMA, **LLAMA_SIZES[2], "head_dim": 6, "mlp_bias": True},
    ],
    "nanochat": [
        {**LLAMA, **LLAMA_SIZES[0], **rope(), "pad_token_id": 0},
        {
            **LLAMA,
            **LLAMA_SIZES[1],
            **rope("linear", factor=3.0),
            "pad_token_id": 0,
            "tie_word_embeddings": True,
            "attention_bias": True,
            "final_logit_softcapping": 2.0,
        },
        {**LLAMA, **LLAMA_SIZES[2], "head_dim": 6, "pad_token_id": 0, "final_logit_softcapping": None},
    ],
    "smollm3": [
        {**LLAMA, **LLAMA_SIZES[0], **rope(), "pad_token_id": 0, "no_rope_layer_interval": 2},
        {
            **LLAMA,
            **LLAMA_SIZES[1],
            "pad_token_id": 0,
            "no_rope_layers": [0, 1, 0],
            "use_sliding_window": True,
            "sliding_window": 5,
            "attention_bias": True,
        },
        {**LLAMA, **LLAMA_SIZES[2], **rope(), "pad_token_id": 0, "mlp_bias": True, "tie_word_embeddings": False},
    ],
    "modernbert": [
        {**LLAMA, **sizes(4, 24, 3, 40), "local_attention": 8, "pad_token_id": 0},
        {
            **LLAMA,
            **sizes(3, 24, 6, 28, norm_eps=1e-3),
            "pad_token_id": 0,
            "local_attention": 7,
            "layer_types": [WINDOW, WINDOW, EVERYTHING],
            "rope_parameters": {
                WINDOW: {"rope_type": "default", "rope_theta": 50.0},
                EVERYTHING: {"rope_type": "linear", "rope_theta": 500.0, "factor": 3.0},
            },
            "hidden_activation": "relu",
            "classifier_activation": "relu",
            "decoder_bias": False,
        },
        {
            **LLAMA,
            **sizes(3, 32, 4, 52, local_attention=0, global_attn_every_n_layers=2, global_rope_theta=700.0),
            **dict.fromkeys(("attention_bias", "mlp_bias", "norm_bias", "classifier_bias"), True),
            "pad_token_id": 0,
            "tie_word_embeddings": False,
        },
    ],
    "albert": [
        {**BERT, **sizes(3, 24, 3, 40, embedding_size=10)},
        {
            **BERT,
            **sizes(5, 20, 5, 28, embedding_size=20, num_hidden_groups=2),
            "hidden_act": "gelu",
            "type_vocab_size": 3,
        },
        {**BERT, **sizes(2, 28, 1, 52, embedding_size=12, num_hidden_groups=2), "tie_word_embeddings": False},
    ],
    "electra": [
        {**BERT, **sizes(2, 24, 3, 40, embedding_size=10)},
        {**BERT, **sizes(3, 20, 5, 28, embedding_size=20), "layer_norm_eps": 1e-3, "type_vocab_size": 3},
        {**BERT, **sizes(1, 28, 1, 52, embedding_size=36), "tie_word_embeddings": False},
    ],
    "bert": [
        {**BERT, **sizes(2, 24, 3, 40)},
        {**BERT, **sizes(3, 20, 5, 28), "layer_norm_eps": 1e-3, "type_vocab_size": 3, "hidden_act": "gelu_new"},
        {**BERT, **sizes(1, 28, 1, 52), "hidden_act": "relu"},
    ],
    "roberta": [
        {**BERT, **sizes(2, 24, 3, 40), "type_vocab_size": 1, "pad_token_id": 1},
        {**BERT, **sizes(3, 20, 5, 28), "layer_norm_eps": 1e-3, "pad_token_id": 1},
        {**BERT, **sizes(1, 28, 1, 52), "type_vocab_size": 3, "pad_token_id": 1},
    ],
    "xlm-roberta": [
        {**BERT, **sizes(2, 24, 3, 40), "type_vocab_size": 1, "pad_token_id": 1},
        {**BERT, **sizes(3, 20, 5, 28), "layer_norm_eps": 1e-3, "pad_token_id": 1},
        {**BERT, **sizes(1, 28, 1, 52), "type_vocab_size": 3, "pad_token_id": 1},
    ],
    "distilbert": [
        {**BERT, "n_layers": 2, "dim": 24, "n_heads": 3, "hidden_dim": 40},
        {**BERT, "n_layers": 3, "dim": 20, "n_heads": 5, "hidden_dim": 28, "sinusoidal_pos_embds": True},
        {**BERT, "n_layers": 1, "dim": 28, "n_heads": 1, "hidden_dim": 52, "activation": "relu"},
    ],
    "mpnet": [
        {**BERT, **sizes(2, 24, 3, 40)},
        {**BERT, **sizes(3, 20, 5, 28), "layer_norm_eps": 1e-3, "max_position_embeddings": 514},
        {**BERT, **sizes(1, 28, 1, 52), "tie_word_embeddings": False},
    ],
    "deberta-v2": [
        {**BERT, **DEBERTA, **sizes(2, 24, 3, 40)},
        {**BERT, **DEBERTA, **sizes(3, 20, 5, 28), "position_buckets": 8, "type_vocab_size": 3, "hidden_act": "relu"},
        {**BERT, **DEBERTA, **sizes(1, 28, 1, 52), "tie_word_embeddings": False, "pos_att_type": "c2p|p2c"},
    ],
    "ernie": [
        {**BERT, **sizes(2, 24, 3, 40)},
        {**BERT, **sizes(3, 20, 5, 28), "layer_norm_eps": 1e-3, "type_vocab_size": 4, "use_task_id": True},
        {**BERT, **sizes(1, 28, 1, 52), "hidden_act": "relu"},
    ],
}


def encoder_decoder(layers, width, heads, inner, **more):
    return {
        "vocab_size": V,
        "max_position_embeddings": 64,
        "encoder_layers": layers,
        "decoder_layers": layers + 1,
        "d_model": width,
        "encoder_attention_heads": heads,
        "decoder_attention_heads": heads,
        "encoder_ffn_dim": inner,
        "decoder_ffn_dim": inner,
        **more,
    }


def t5(layers, width, heads, head_width, inner, **more):
    return {
        "vocab_size": V,
        "num_layers": layers,
        "num_decoder_layers": layers + 1,
        "d_model": width,
        "num_heads": heads,
        "d_kv": head_width,
        "d_ff": inner,
        **more,
    }


CASES["bart"] = CASES["mbart"] = [
    encoder_decoder(2, 24, 3, 40),
    encoder_decoder(1, 20, 5, 28, scale_embedding=True),
    encoder_decoder(1, 28, 1, 52, activation_function="relu"),
]
MARIAN = {"pad_token_id": V - 1, "decoder_start_token_id": V - 1, "eos_token_id": 0, "forced_eos_token_id": 0}
CASES["marian"] = [
    encoder_decoder(2, 24, 3, 40, **MARIAN, scale_embedding=True, activation_function="swish"),
    encoder_decoder(1, 20, 5, 28, **MARIAN, share_encoder_decoder_embeddings=False, decoder_vocab_size=V + 2),
    encoder_decoder(
        1,
        28,
        1,
        52,
        **MARIAN,
        share_encoder_decoder_embeddings=False,
        tie_word_embeddings=False,
        decoder_vocab_size=V + 1,
    ),
]
CASES["m2m_100"] = [
    encoder_decoder(2, 24, 3, 40),
    encoder_decoder(1, 20, 5, 28, scale_embedding=False, activation_function="gelu"),
    encoder_decoder(1, 28, 1, 52, activation_function="silu"),
]
CASES["t5"] = CASES["mt5"] = [
    t5(2, 24, 3, 8, 40),
    t5(1, 20, 5, 6, 28, feed_forward_proj="gated-gelu", layer_norm_epsilon=1e-3),
    t5(1, 28, 1, 10, 52, feed_forward_proj="gated-silu"),
]
assert CASES.keys() == FAMILIES.keys()  # The documentation's table of them is made of what is tested here
IDS = np.random.default_rng(0).integers(5, V, (len(LENGTHS), T))  # none of them padding
TARGETS = np.random.default_rng(1).integers(5, V, (len(LENGTHS), 23))
AUTO = {CausalLM: "AutoModelForCausalLM", MaskedLM: "AutoModelForMaskedLM", Seq2SeqLM: "AutoModelForSeq2SeqLM"}
VISIBLE = np.arange(T) < LENGTHS[:, None]
START = 3  # what a target begins with


@pytest.fixture(scope="module")
def tokenizer():
    letters = "".join(chr(ord("a") + i) for i in range(26)) + " .,!"
    return Tokenizer.train([letters], kind="char", progress=False)


@pytest.fixture(
    scope="module", params=[(kind, number) for kind in CASES for number in range(3)], ids=lambda p: f"{p[0]}-{p[1]}"
)
def checkpoint(request, tmp_path_factory, tokenizer):
    """A model of transformers with weights far from their initial values, and the folder it was saved to."""
    kind, number = request.param
    torch.manual_seed(number)
    config = transformers.CONFIG_MAPPING[kind](**CASES[kind][number], attn_implementation="eager")
    model = getattr(transformers, FAMILIES[kind].architecture)(config).eval()
    for name, parameter in model.named_parameters():
        is_scale = parameter.ndim == 1 and name.endswith("weight") and "gemma" not in kind
        if parameter.requires_grad:  # Marian's sinusoids stay
            parameter.data.normal_(1.0 if is_scale else 0.0, 0.3)
    for name, buffer in model.named_buffers():
        if name == "final_logits_bias" and number > 0:
            buffer.normal_()
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(folder)
    tokenizer.save(folder)
    return model, folder


@torch.no_grad()
def logits_of(model, visible=VISIBLE):
    """Theirs at every place that is not padding."""
    if model.config.is_encoder_decoder:
        targets = {"decoder_input_ids": torch.tensor(TARGETS)}
        return model(torch.tensor(IDS), attention_mask=torch.tensor(VISIBLE), **targets).logits.numpy()
    return model(torch.tensor(IDS), attention_mask=torch.tensor(visible)).logits.numpy()[visible]


def our_logits(model, visible=VISIBLE):
    if isinstance(model, Seq2SeqLM):
        return np.array(model({"source_ids": IDS, "source_mask": VISIBLE, "target_ids": TARGETS}))
    return np.array(model(IDS, padding_mask=visible))[visible]


def test_logits_are_the_same(checkpoint):
    theirs, folder = checkpoint
    ours, _ = kerasllm.huggingface.load(folder)
    assert np.abs(our_logits(ours) - logits_of(theirs)).max() < 1e-4
    if isinstance(ours, MaskedLM):  # with the padding before the texts too
        before = np.ascontiguousarray(VISIBLE[:, ::-1])
        assert np.abs(our_logits(ours, before) - logits_of(theirs, before)).max() < 1e-4


def test_what_is_saved_is_the_same_checkpoint(checkpoint, tmp_path):
    theirs, folder = checkpoint
    kerasllm.huggingface.save(*kerasllm.huggingface.load(folder), tmp_path / "saved")
    before, after = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "saved"))
    assert before.keys() == after.keys()
    assert {name: array.shape for name, array in before.items()} == {name: a.shape for name, a in after.items()}
    auto = getattr(transformers, AUTO[FAMILIES[theirs.config.model_type].model])
    again, report = auto.from_pretrained(tmp_path / "saved", attn_implementation="eager", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert np.abs(logits_of(again.eval()) - logits_of(theirs)).max() < 1e-5


@torch.no_grad()
def test_greedy_text_is_the_same(checkpoint):
    theirs, folder = checkpoint
    ours, _ = kerasllm.huggingface.load(folder)
    if isinstance(ours, MaskedLM):
        pytest.skip("a masked model writes nothing")
    prompt = IDS[1, :9].tolist()
    if isinstance(ours, CausalLM):
        written = generate_ids(ours, [prompt], max_new_tokens=64)[0]
        logits = theirs(torch.tensor([prompt + written])).logits[0, len(prompt) - 1 : -1]
    else:
        written = greedy_target(ours, prompt, 64)
        targets = torch.tensor([[START, *written[:-1]]])
        logits = theirs(torch.tensor([prompt]), decoder_input_ids=targets).logits[0]
        logits[:, START] = -torch.inf  # which stands nowhere else
    best, second = torch.topk(logits, 2).values.T
    close = (best - second < 1e-3).tolist()
    sure = close.index(True) if True in close else len(close)
    assert sure > 1  # random weights soon come to a close call
    assert logits.argmax(-1).tolist()[:sure] == written[:sure]


def greedy_target(model, source, length):
    """What one beam finds for a source where no token ends a target."""
    beams, ids = BeamSettings(), {"start_id": START, "end_id": -1, "pad_id": -1}
    settings, V = search_settings(beams, **ids), model.config.vocab_size
    rule, source = search_rule(beams.rules, V, **ids), np.array([source])
    targets = blank_targets(1, 1, length, settings)
    inputs = source, np.ones_like(source, bool), targets, np.array([length], "int32")
    tokens, _ = search_targets(model, *inputs, settings, start_rule(rule, targets, V), rule, False)
    return np.array(tokens)[0, 0].tolist()


BEGINNINGS = {  # what a kind of model makes its targets begin with, in tokens of the test's tokenizer
    "t5": {"decoder_start_token_id": "<|startoftext|>"},
    "marian": {"decoder_start_token_id": "<|startoftext|>"},
    "m2m_100": {"decoder_start_token_id": "<|endoftext|>", "forced_bos_token_id": "x"},
    "mbart": {"decoder_start_token_id": "x"},
}


@pytest.mark.parametrize("kind", BEGINNINGS)
def test_translations_begin_as_the_checkpoint_says(kind, tokenizer, tmp_path):
    tokenizer = Tokenizer(tokenizer.engine, pad="<|startoftext|>", start="<|pad|>")  # M2M-100's padding is always 1
    beginning = keras.tree.map_structure(tokenizer.engine.token_to_id, BEGINNINGS[kind])
    special = {"pad_token_id": tokenizer.pad_id, "eos_token_id": tokenizer.end_id, "bos_token_id": tokenizer.start_id}
    sizes = {**CASES[kind][0], **special, "vocab_size": tokenizer.vocab_size}
    torch.manual_seed(5)
    config = transformers.CONFIG_MAPPING[kind](**sizes)
    theirs = getattr(transformers, FAMILIES[kind].architecture)(config).eval()
    for parameter in theirs.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(0.0, 0.4)
    theirs.generation_config = transformers.GenerationConfig(**special, **beginning)
    theirs.save_pretrained(tmp_path / "theirs")
    tokenizer.save(tmp_path / "theirs")
    text = "a dog, a cat"
    source = torch.tensor([[*tokenizer.encode(text), tokenizer.end_id]])
    never = {tokenizer.pad_id, beginning["decoder_start_token_id"]} - {tokenizer.end_id}
    greedy = {"num_beams": 1, "max_new_tokens": 12, "use_cache": False}
    ids = theirs.generate(source, **greedy, suppress_tokens=list(never))
    expected = tokenizer.decode(ids[0, 1:].numpy())
    assert len(expected) > 5
    model, _ = kerasllm.huggingface.load(tmp_path / "theirs")
    assert kerasllm.translate(model, tokenizer, text, num_beams=1, max_new_tokens=12) == expected
    kerasllm.huggingface.save(model, tokenizer, tmp_path / "ours")
    kerasllm.save(model, tokenizer, tmp_path / "run")
    for folder in ("ours", "run"):
        assert kerasllm.load(tmp_path / folder)[0].config == model.config


@torch.no_grad()
def test_deberta_of_published_files(tokenizer, tmp_path):
    """Texts as long as can be, with a head that config.json does not tell of, and that of its discriminator's masks."""
    settings = {**DEBERTA, **sizes(1, 24, 3, 40), "vocab_size": V, "position_buckets": 256}
    torch.manual_seed(0)
    model = transformers.DebertaV2ForMaskedLM(transformers.DebertaV2Config(**settings, legacy=False)).eval()
    for parameter in model.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "theirs")
    tokenizer.save(tmp_path / "theirs")
    weights = load_file(tmp_path / "theirs" / "model.safetensors")
    assert "lm_predictions.lm_head.dense.weight" in weights
    weights["mask_predictions.dense.weight"] = np.zeros((24, 24), "float32")
    save_file(weights, tmp_path / "theirs" / "model.safetensors", {"format": "pt"})
    (tmp_path / "theirs" / "config.json").write_text(json.dumps({**settings, "model_type": "deberta-v2"}))
    ids = np.random.default_rng(0).integers(5, V, (1, 512))
    expected = model(torch.tensor(ids)).logits.numpy()
    ours, _ = kerasllm.huggingface.load(tmp_path / "theirs")
    assert np.abs(np.array(ours(ids)) - expected).max() < 1e-4
    kerasllm.huggingface.save(ours, tokenizer, tmp_path / "ours")
    again = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "ours").eval()
    assert np.abs(again(torch.tensor(ids)).logits.numpy() - expected).max() < 1e-5


@pytest.mark.parametrize("preset", ["gpt2", "llama", "speedrun", None])
def test_a_model_trained_here_has_the_same_perplexity_there(preset, tmp_path):
    words = np.random.default_rng(0).choice(["the", "cat", "dog", "saw", "a", "tree", "and", "slept."], 1500)
    (tmp_path / "text.txt").write_text(" ".join(words))
    small = ["--layers", "2", "--d-model", "32", "--heads", "2", "--dff", "64", "--context", "64", "--batch-size", "4"]
    arguments = ["train", "--data", str(tmp_path / "text.txt"), *small, "--steps", "30"]
    arguments += ["--preset", preset] if preset else []  # none: what `train` makes by default
    assert main([*arguments, "--vocab-size", "300", "--precision", "float32", "--out", str(tmp_path / "run")]) == 0
    model, tokenizer = kerasllm.load(tmp_path / "run")
    kerasllm.huggingface.save(model, tokenizer, tmp_path / "theirs")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "theirs")
    text = " ".join(words[:60])
    ids = transformers.AutoTokenizer.from_pretrained(tmp_path / "theirs")(text, return_tensors="pt")["input_ids"]
    ids = ids[:, :64]
    assert ids[0].tolist() == tokenizer.encode(text)[:64]
    logits = keras.ops.log_softmax(model(ids.numpy())[0, :-1])
    ours = -np.take_along_axis(np.array(logits), ids.numpy()[0, 1:, None], axis=-1).mean()
    assert np.exp(ours) == pytest.approx(torch.exp(theirs(ids, labels=ids).loss).item(), rel=1e-5)
