"""Tables that are one or several, whatever the settings say and the file holds: as transformers computes."""

import json

import numpy as np
import pytest

import kerasllm
from kerasllm.huggingface.families import FAMILIES
from kerasllm.tokenizers import Tokenizer

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch==2.13.0")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install kerasllm[parity]")
from parity.test_settings import V, ours, theirs  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402

pytestmark = pytest.mark.parity

DECODER = {
    "vocab_size": V,
    "max_position_embeddings": 48,
    "num_hidden_layers": 1,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
OPT = {**DECODER, "ffn_dim": 24, "word_embed_proj_dim": 16}
T5 = {"vocab_size": V, "d_model": 16, "num_layers": 1, "num_heads": 2, "d_kv": 8, "d_ff": 24}
BART = {
    "vocab_size": V,
    "max_position_embeddings": 48,
    "d_model": 16,
    **{f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in
       {"layers": 1, "attention_heads": 2, "ffn_dim": 24}.items()},
}  # fmt: skip
MARIAN = {**BART, "pad_token_id": V - 1, "decoder_start_token_id": V - 1}
SIDES = [f"model.{side}.embed_tokens.weight" for side in ("encoder", "decoder")]
TIED, UNTIED = {"tie_word_embeddings": True}, {"tie_word_embeddings": False}
# Type, settings, and which of the tensors that could all be different are not in the file.
CASES = {
    "an output layer that differs": ("llama", {**DECODER, **TIED}, []),
    "an output layer alone": ("llama", {**DECODER, **TIED}, ["model.embed_tokens.weight"]),
    "no output layer": ("llama", {**DECODER, **TIED}, ["lm_head.weight"]),
    "GPT-2's output layer": ("gpt2", {**DECODER, **TIED}, []),
    "OPT without biases": ("opt", {**OPT, "enable_bias": False}, ["lm_head.weight"]),
    "OPT with bare norms": ("opt", {**OPT, "layer_norm_elementwise_affine": False}, ["lm_head.weight"]),
    "BERT's decoder that differs": ("bert", {**DECODER, **TIED}, []),
    "BERT's decoder untied": ("bert", {**DECODER, **UNTIED}, []),
    "BERT's bias of the decoder": (
        "bert",
        {**DECODER, **TIED},
        ["cls.predictions.bias", "cls.predictions.decoder.weight"],
    ),
    "BERT's bias": ("bert", {**DECODER, **TIED}, ["cls.predictions.decoder.bias", "cls.predictions.decoder.weight"]),
    "RoBERTa's decoder untied": ("roberta", {**DECODER, **UNTIED}, []),
    "ALBERT's decoder that differs": ("albert", {**DECODER, **TIED, "embedding_size": 8}, []),
    "ALBERT's bias": ("albert", {**DECODER, **TIED}, ["predictions.decoder.bias", "predictions.decoder.weight"]),
    "ELECTRA's untied": ("electra", {**DECODER, **UNTIED, "embedding_size": 8}, []),
    "ModernBERT's decoder that differs": ("modernbert", {**DECODER, **TIED, "pad_token_id": 0}, []),
    "ModernBERT's decoder": ("modernbert", {**DECODER, **TIED, "pad_token_id": 0}, ["decoder.weight"]),
    "DistilBERT's untied": ("distilbert", {**DECODER, "dim": 16, "hidden_dim": 24, "n_heads": 2, "n_layers": 1}, []),
    "T5 all different": ("t5", {**T5, **TIED}, []),
    "T5 untied": ("t5", {**T5, **UNTIED}, ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]),
    "T5 untied without an output layer": ("t5", {**T5, **UNTIED}, ["lm_head.weight"]),
    "T5 all one": ("t5", UNTIED | T5, ["lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]),
    "mT5 untied": ("mt5", {**T5, **UNTIED}, ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]),
    "BART all different": ("bart", {**BART, **TIED}, []),
    "BART untied": ("bart", {**BART, **UNTIED}, []),
    "BART without a shared table": ("bart", {**BART, **TIED}, ["model.shared.weight", "lm_head.weight", SIDES[1]]),
    "M2M-100 untied": ("m2m_100", {**BART, **UNTIED}, []),
    "Marian all different": ("marian", {**MARIAN, **TIED}, []),
    "Marian untied": ("marian", {**MARIAN, **UNTIED}, []),
    "Marian with two tables": (
        "marian",
        {**MARIAN, **TIED, "share_encoder_decoder_embeddings": False},
        ["lm_head.weight"],
    ),
    "Marian with three": ("marian", {**MARIAN, **UNTIED, "share_encoder_decoder_embeddings": False}, []),
}


@pytest.mark.parametrize(("kind", "settings", "absent"), CASES.values(), ids=CASES)
def test_tables_are_tied_as_there(kind, settings, absent, tmp_path):
    architecture = getattr(transformers, FAMILIES[kind].architecture)
    model, draw = architecture(transformers.CONFIG_MAPPING[kind](**settings)), np.random.default_rng(0)
    names = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if kind == "marian":
        names = {name: shape for name, shape in names.items() if "embed_positions" not in name}
    assert {*absent} <= names.keys()
    tensors = {
        name: draw.normal(0.0, 0.3, shape).astype("float32") for name, shape in names.items() if name not in absent
    }
    folder = tmp_path / "theirs"
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**settings, "model_type": kind}))
    Tokenizer.train(["abc"], kind="char", progress=False).save(folder)
    expected = theirs(architecture.from_pretrained(folder, attn_implementation="eager").eval())
    found, tokenizer = kerasllm.huggingface.load(folder)
    assert np.abs(ours(found) - expected).max() < 1e-4
    kerasllm.huggingface.save(found, tokenizer, tmp_path / "ours")
    again, report = architecture.from_pretrained(
        tmp_path / "ours", attn_implementation="eager", output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert np.abs(theirs(again.eval()) - expected).max() < 1e-4
    assert np.abs(ours(kerasllm.huggingface.load(tmp_path / "ours")[0]) - expected).max() < 1e-4
