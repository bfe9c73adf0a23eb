"""Settings of config.json: what is read as transformers reads it, what is passed over, and what is refused."""

import dataclasses
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import kerasllm
from kerasllm.huggingface.choosing import family_of, type_of
from kerasllm.huggingface.families import FAMILIES
from kerasllm.huggingface.families.family import explicit
from kerasllm.huggingface.settings import Settings, reference
from kerasllm.models import CausalLM, TransformerConfig
from kerasllm.tokenizers import Tokenizer

DEBERTA = {
    **{"relative_attention": True, "position_biased_input": False, "position_buckets": 8, "share_att_key": True},
    **{"norm_rel_ebd": "layer_norm", "pos_att_type": "p2c|c2p"},
}
RECORDED = Path(__file__).parent / "fixtures" / "huggingface"


def fields(kind, **values):
    """What a config.json of a small model says, with these settings too."""
    sizes = {"vocab_size": 9, "num_hidden_layers": 3, "hidden_size": 8, "num_attention_heads": 2, "head_dim": 4}
    settings = Settings({**sizes, "model_type": kind, "num_key_value_heads": 2, **values}, "config.json")
    found = TransformerConfig.from_dict(FAMILIES[kind].fields(settings))
    settings.finish()
    return found


def test_what_is_not_named_is_transformers_own():
    assert fields("mistral").attention_window == 4096
    assert fields("mistral", sliding_window=None).attention_window is None
    windows = fields("qwen2", use_sliding_window=True, sliding_window=5, num_hidden_layers=30).attention_window
    assert windows == (*[None] * 28, 5, 5)
    gemma = fields("gemma2")
    assert (gemma.attention_window, gemma.attention_soft_cap, gemma.attention_scale) == ((4096, None, 4096), 50, 1 / 16)
    assert fields("gemma2", attn_logit_softcapping=None).attention_soft_cap is None
    assert fields("gemma3_text", num_hidden_layers=6).rope_theta == (*[10000.0] * 5, 1000000.0)
    assert fields("smollm3", num_hidden_layers=4).partial_rotary_factor == (1.0, 1.0, 1.0, 0.0)
    assert fields("gpt_neox", hidden_size=16, head_dim=None).partial_rotary_factor == 0.25
    assert fields("bert").norm_epsilon == 1e-12
    small = TransformerConfig.from_dict(FAMILIES["gpt2"].fields(Settings({"model_type": "gpt2"}, "config.json")))
    assert small == TransformerConfig.preset("gpt2", dropout=0.1, attention_dropout=0.1)


def test_modernbert_says_it_in_two_ways():
    size = {"num_hidden_layers": 4, "head_dim": None}
    older = fields("modernbert", **size, local_attention=128, global_rope_theta=7e4, local_rope_theta=900.0)
    assert older.attention_window == (None, 65, 65, None)  # 64 tokens on each side
    assert older.rope_theta == (7e4, 900.0, 900.0, 7e4)
    assert older.skip_attention_norm == (True, False, False, False)
    types = {"full_attention": {"rope_theta": 7e4}, "sliding_attention": {"rope_theta": 900.0}}
    layer_types = [f"{kind}_attention" for kind in ("full", "sliding", "sliding", "full")]
    newer = fields("modernbert", **size, layer_types=layer_types, rope_parameters=types)
    assert newer == older
    written = FAMILIES["modernbert"].settings(older)
    assert (written["global_attn_every_n_layers"], written["local_attention"]) == (3, 128)
    assert written["layer_types"] == layer_types


def test_settings_have_other_names_too():
    gpt2 = fields("gpt2", hidden_size=16, n_embd=8, n_layer=2, num_hidden_layers=3, n_head=2)
    assert (gpt2.d_model, gpt2.num_layers, gpt2.num_heads) == (16, 3, 2)  # Of two names, that which all models have.
    assert fields("llama", hidden_size=8.0).d_model == 8
    t5 = fields("t5", dense_act_fn="silu", is_gated_act=True, feed_forward_proj="relu")
    assert (t5.activation, t5.gated) == ("silu", True)
    assert fields("qwen3", layer_types=["attention"] * 3).attention_window is None


def test_rotations_have_older_names_too():
    older = fields("gpt_neox", hidden_size=16, head_dim=None, rotary_pct=0.5, rotary_emb_base=500, rope_scaling=None)
    assert (older.partial_rotary_factor, older.rope_theta) == (0.5, 500.0)
    rope = {"rope_theta": 700.0, "rope_local_base_freq": 70.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    older = fields("gemma3_text", **rope, sliding_window_pattern=3)
    assert older.rope_theta == (70.0, 70.0, 700.0)
    assert older.rope_scaling == (None, None, {"rope_type": "linear", "factor": 8.0})
    assert fields("phi3", partial_rotary_factor=0.5).partial_rotary_factor == 0.5


def test_what_transformers_does_not_read_is_passed_over_with_a_line_in_the_log(caplog):
    unread = {"predict_special_tokens": True, "unsloth_fixed": True, "transformers.js_config": {}, "tie_weights_": True}
    with caplog.at_level(logging.DEBUG, "kerasllm"):
        assert fields("llama", **unread, attn_pdrop=0.3) == fields("llama")
    assert len([record for record in caplog.records if "unsloth_fixed" in record.message]) == 1


def far_from_defaults(kind):
    """Every setting that transformers reads with another value than its default, where another is computed here."""
    values = {"model_type": kind}
    for name, (annotation, value) in reference(kind)["settings"].items():
        if not annotation or name in ("pad_token_id", "word_embed_proj_dim", "inner_group_num", "decoder_sparse_step"):
            continue
        if isinstance(value, bool):
            values[name] = not value
        elif isinstance(value, int | float):
            values[name] = 2 * value or 0.25
        elif isinstance(value, str) and "roberta" not in kind and kind not in ("electra", "mpnet"):
            values[name] = "gated-silu" if name == "feed_forward_proj" else "relu"
        elif value is None and annotation.startswith("int"):
            values[name] = 4
    return {**values, **DEBERTA, "type_vocab_size": 3} if kind == "deberta-v2" else values


@pytest.mark.parametrize("kind", FAMILIES)
def test_what_is_read_is_written(kind):
    family = FAMILIES[kind]
    config = TransformerConfig.from_dict(family.fields(Settings(far_from_defaults(kind), kind)))
    written = {"model_type": kind, **family.settings(config)}
    again = Settings(written, kind)
    assert explicit(TransformerConfig.from_dict(family.fields(again))) == explicit(config)
    again.finish()


def test_gemma_has_other_activations_too():
    for name in ("silu", "gelu"):
        config = dataclasses.replace(fields("gemma"), activation=name)
        kind, _, written = family_of(CausalLM, config)
        assert kind == "gemma"
        assert fields("gemma", **written).activation == name


REFUSED = {
    "a layer of another kind": ("qwen3", {"layer_types": ["full_attention", "chunked_attention", "full_attention"]}),
    "other settings for a layer": ("llama", {"per_layer_config": {"1": {"hidden_act": "relu"}}}),
    "scores that are not scaled": ("gpt2", {"scale_attn_weights": False}),
    "buckets of another number": ("mpnet", {"relative_attention_num_buckets": 64}),
    "places after another padding": ("m2m_100", {"pad_token_id": 0}),
    "two blocks in a group": ("albert", {"inner_group_num": 2}),
    "another activation of the head": ("modernbert", {"classifier_activation": "relu", "head_dim": None}),
    "a convolution": ("deberta-v2", {"conv_kernel_size": 3, **DEBERTA}),
    "one of two products with places": (
        "deberta-v2",
        {"pos_att_type": "c2p"} | {n: v for n, v in DEBERTA.items() if n != "pos_att_type"},
    ),
    "places of another reach": ("deberta-v2", {"max_relative_positions": 7, **DEBERTA}),
    "keys of their own for places": (
        "deberta-v2",
        {"share_att_key": False} | {n: v for n, v in DEBERTA.items() if n != "share_att_key"},
    ),
    "a narrower table": ("opt", {"word_embed_proj_dim": 4}),
}


@pytest.mark.parametrize(("kind", "change"), REFUSED.values(), ids=REFUSED)
def test_what_is_read_there_and_not_computed_here_is_refused_by_name(kind, change):
    with pytest.raises(ValueError, match=f"config.json asks for {next(iter(change))}=.*, and kerasllm computes only"):
        fields(kind, **change)


def test_layers_that_are_too_few_are_refused():
    with pytest.raises(ValueError, match="`attention_window` has 1 values for 3 layers"):
        fields("gemma2", layer_types=["sliding_attention"])


OLD = {
    "gpt2": {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_ctx": 16},
    "distilbert": {"dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 8},
    "bert": {"hidden_size": 8, "num_hidden_layers": 2, "attention_probs_dropout_prob": 0.1, "type_vocab_size": 2},
}
OLD["roberta"] = {**OLD["bert"], "type_vocab_size": 1, "max_position_embeddings": 514}


def test_a_file_without_a_type_is_known_by_its_class_or_its_settings():
    for kind, values in OLD.items():
        assert type_of(values) == kind
    assert type_of({**OLD["bert"], "embedding_size": 8}) is None
    for kind, family in FAMILIES.items():
        assert type_of({"architectures": [family.architecture]}) == kind
    for name, kind in {"BertForSequenceClassification": "bert", "GPT2Model": "gpt2", "MarianMTModel": "marian"}.items():
        assert type_of({"architectures": [name]}) == kind
    assert type_of({"architectures": ["BertJapaneseForMaskedLM"]}) is None


def test_the_nearest_family_is_named_with_what_stands_in_the_way():
    sizes = {"vocab_size": 9, "num_layers": 2, "d_model": 24, "num_heads": 4, "dff": 36}
    kind, *_ = family_of(CausalLM, TransformerConfig(**sizes, norm="rms", gated=True, use_bias=False))
    assert kind == "llama"
    capped = TransformerConfig(**sizes, norm="rms", gated=True, use_bias=False, logit_soft_cap=9.0)
    message = r"the nearest, llama, it differs in logit_soft_cap=9\.0 \(there None\)\. Only a run folder can hold it\."
    with pytest.raises(ValueError, match=message):
        family_of(CausalLM, capped)


@pytest.fixture
def folder(request, tmp_path):
    """A recorded checkpoint of transformers, to be changed."""
    folder = shutil.copytree(RECORDED / request.param, tmp_path / request.param)
    Tokenizer.train(["abcdefghijklmnopqrstuv"], kind="char", progress=False).save(folder)
    return folder


def change(folder, tensors=None, **settings):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    if tensors:
        save_file(
            {**load_file(folder / "model.safetensors"), **tensors}, folder / "model.safetensors", {"format": "pt"}
        )


@pytest.mark.parametrize("folder", ["llama"], indirect=True)
def test_an_output_layer_that_differs_is_not_tied(folder):
    table, head = (
        load_file(folder / "model.safetensors")[f"{name}.weight"] for name in ("model.embed_tokens", "lm_head")
    )
    change(folder, tie_word_embeddings=True, auto_map={"AutoModel": "evil.Model"})
    assert not kerasllm.load(folder)[0].config.tie_embeddings
    change(folder, {"lm_head.weight": table})
    model, _ = kerasllm.load(folder)
    assert model.config.tie_embeddings
    change(folder, {"lm_head.weight": head}, tie_word_embeddings=False)
    untied, _ = kerasllm.load(folder)
    np.testing.assert_array_equal(untied.get_layer("token_embedding").reverse_embeddings, head.T)


@pytest.mark.parametrize("folder", ["llama"], indirect=True)
def test_what_was_read_goes_out_again(folder, tmp_path):
    ids = {"bos_token_id": 5, "eos_token_id": [6, 7], "pad_token_id": 28, "sep_token_id": 4, "mask_token_id": None}
    change(folder, **ids)
    habits = {"padding_side": "left", "truncation_side": "left", "model_max_length": 7}
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **habits}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 8], "pad_token_id": 3}))
    model, tokenizer = kerasllm.load(folder)
    kerasllm.save(model, tokenizer, tmp_path / "run")
    kerasllm.huggingface.save(model, tokenizer, tmp_path / "saved")
    kerasllm.huggingface.save(*kerasllm.load(tmp_path / "run"), tmp_path / "of a run")
    for name in ("saved", "of a run"):
        config, generation = (
            json.loads((tmp_path / name / f"{f}.json").read_text()) for f in ("config", "generation_config")
        )
        assert ids.items() <= config.items()
        assert (generation["eos_token_id"], generation["pad_token_id"]) == ([7, 8], 3)
        assert habits.items() <= json.loads((tmp_path / name / "tokenizer_config.json").read_text()).items()
    del model.origin
    kerasllm.huggingface.save(model, tokenizer, tmp_path / "ours")
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert config["pad_token_id"] == tokenizer.pad_id


@pytest.mark.parametrize("folder", ["llama"], indirect=True)
def test_more_ids_than_rows_are_warned_of_once_and_refused_where_they_are_needed(folder, tmp_path):
    letters = "".join(map(chr, range(33, 70)))
    for path in folder.glob("tokenizer*"):
        path.unlink()
    Tokenizer.train([letters], kind="char", progress=False).save(folder)
    change(folder, pad_token_id=30)
    with pytest.warns(
        UserWarning, match=r"the tokenizer has \d+ ids and the model's table 29 rows: a text that"
    ) as caught:
        model, tokenizer = kerasllm.load(folder)
    assert len(caught) == 1
    assert tokenizer.pad_id < 29 < tokenizer.encode("E")[0]
    assert kerasllm.generate(model, tokenizer, "!#", max_new_tokens=2) is not None
    for use in (kerasllm.generate, kerasllm.evaluation.perplexity):
        with pytest.raises(ValueError, match=r"[Tt]oken id \d+"):
            use(model, tokenizer, "!E")
    kerasllm.save(model, tokenizer, tmp_path / "run")
    kerasllm.huggingface.save(model, tokenizer, tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["pad_token_id"] is None  # torch makes no table for padding past its rows


@pytest.mark.parametrize("folder", ["llama"], indirect=True)
def test_a_folder_without_a_type_is_told_from_a_run(folder):
    change(folder, architectures=["LlamaForCausalLM"])
    path = folder / "config.json"
    path.write_text(json.dumps({n: v for n, v in json.loads(path.read_text()).items() if n != "model_type"}))
    assert kerasllm.load(folder)[0].origin.model_type == "llama"
