"""Classifiers beside transformers' classes, both ways: read, computed, written back."""

import numpy as np
import pytest

import kerasllm
from kerasllm.models import SequenceClassifier, TokenClassifier, TransformerConfig
from kerasllm.tokenizers import Tokenizer

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch==2.13.0")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install kerasllm[parity]")
from safetensors.numpy import load_file  # noqa: E402

pytestmark = pytest.mark.parity

V, T = 61, 24
LENGTHS = np.array([T, 1, 17, 9])
WIDE = {
    "vocab_size": V,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 66,
}
GROUPED = {**WIDE, "num_key_value_heads": 2, "head_dim": 8}
CASES = {
    "Bert": WIDE,
    "Roberta": WIDE,
    "XLMRoberta": WIDE,
    "DistilBert": {"vocab_size": V, "dim": 24, "n_layers": 2, "n_heads": 4, "hidden_dim": 40},
    "MPNet": WIDE,
    "DebertaV2": {
        **{**WIDE, "relative_attention": True, "position_buckets": 8, "norm_rel_ebd": "layer_norm"},
        **{
            "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
            "pooler_hidden_act": "relu",
        },
    },
    "Ernie": {**WIDE, "use_task_id": True},
    "Albert": {**WIDE, "num_hidden_layers": 3, "embedding_size": 10},
    "Electra": {**WIDE, "embedding_size": 10},
    "ModernBert": {**WIDE, "num_hidden_layers": 3, "local_attention": 8},
    "ModernBert, mean": {
        **WIDE,
        "classifier_pooling": "mean",
        "classifier_activation": "relu",
        "hidden_activation": "relu",
    },
    "GPT2": {"vocab_size": V, "n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 66},
    "Llama": GROUPED,
    "Mistral": GROUPED,
    "Qwen2": GROUPED,
    "Qwen3": GROUPED,
    "Gemma": GROUPED,
    "Gemma2": GROUPED,
    "Phi3": {**GROUPED, "pad_token_id": 0},
}
PROBLEMS = {None: 3, "multi_label_classification": 4, "regression": 1}


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["to be or not to be"], kind="char")


def theirs(name, kind, **options):
    """A model of transformers with random weights, biases included."""
    model_class = getattr(transformers, f"{name.split(',')[0]}For{kind}")
    torch.manual_seed(0)
    model = model_class(model_class.config_class(**CASES[name], **options)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return model


def exchanged(model, tokenizer, folder):
    """It in ours, and it again, as transformers reads what we write."""
    model.save_pretrained(folder / "theirs")
    tokenizer.save(folder / "theirs")
    ours, read = kerasllm.load(folder / "theirs")
    kerasllm.huggingface.save(ours, read, folder / "ours")
    kerasllm.save(ours, read, folder / "run")
    again, _ = kerasllm.load(folder / "run")
    back = type(model).from_pretrained(folder / "ours").eval()
    assert (
        load_file(folder / "ours" / "model.safetensors").keys()
        == load_file(folder / "theirs" / "model.safetensors").keys()
    )
    return ours, again, back


def batch(pad):
    ids = np.random.default_rng(0).integers(4, V, (len(LENGTHS), T))
    is_real = np.arange(T) < LENGTHS[:, None]
    return np.where(is_real, ids, pad), is_real


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("name", CASES)
def test_texts(name, problem, tokenizer, tmp_path):
    labels = {i: f"kind {i}" for i in range(PROBLEMS[problem])}
    pad = 1 if "oberta" in name.lower() or name == "MPNet" else 0
    model = theirs(name, "SequenceClassification", id2label=labels, problem_type=problem, **_pad(name, pad))
    ours, again, back = exchanged(model, tokenizer, tmp_path)
    assert isinstance(ours, SequenceClassifier) and ours.labels == list(labels.values())
    assert ours.problem == {None: "single_label"}.get(problem, str(problem).removesuffix("_classification"))
    ids, is_real = batch(pad)
    inputs = {"token_ids": ids, "document_ids": is_real.astype("int32")}
    found = np.asarray(ours(inputs))
    assert np.abs(found).max() > 0.1
    np.testing.assert_array_equal(again(inputs), found)
    mask = {"attention_mask": torch.tensor(is_real.astype("int64"))}
    with torch.no_grad():
        expected = [other(torch.tensor(ids), **mask).logits.numpy() for other in (model, back)]
    np.testing.assert_allclose(found, expected[0], atol=1e-4)
    np.testing.assert_allclose(expected[1], expected[0], atol=1e-5)
    assert back.config.id2label == labels and back.config.problem_type == (problem or "single_label_classification")


def test_encoders_without_token_types(tokenizer, tmp_path):
    """BERT has a table of them in any case."""
    sizes = {"vocab_size": V, "num_layers": 1, "d_model": 24, "num_heads": 4, "dff": 40, "max_length": 66}
    model = SequenceClassifier(TransformerConfig.preset("bert", **sizes, num_token_types=0), 3)
    kerasllm.huggingface.save(model, tokenizer, tmp_path / "ours")
    back = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "ours").eval()
    ids, _ = batch(0)
    with torch.no_grad():
        np.testing.assert_allclose(back(torch.tensor(ids)).logits.numpy(), model(ids), atol=1e-5)


def _pad(name, pad):
    return {} if name == "Phi3" else {"pad_token_id": pad}


@pytest.mark.parametrize("name", CASES)
def test_tokens(name, tokenizer, tmp_path):
    pad = 1 if "oberta" in name.lower() or name == "MPNet" else 0
    model = theirs(name, "TokenClassification", num_labels=5, **_pad(name, pad))
    ours, again, back = exchanged(model, tokenizer, tmp_path)
    assert isinstance(ours, TokenClassifier)
    ids, is_real = batch(pad)
    inputs = {"token_ids": ids, "document_ids": is_real.astype("int32")}
    found = np.asarray(ours(inputs))
    np.testing.assert_array_equal(again(inputs), found)
    mask = {"attention_mask": torch.tensor(is_real.astype("int64"))}
    with torch.no_grad():
        expected = [other(torch.tensor(ids), **mask).logits.numpy() for other in (model, back)]
    np.testing.assert_allclose(found[is_real], expected[0][is_real], atol=1e-4)
    np.testing.assert_allclose(expected[0][is_real], expected[1][is_real], atol=1e-5)


@pytest.mark.parametrize("name", ["Bert", "DistilBert"])  # with types of tokens and without
def test_pairs_are_those_of_the_pipeline(name, tmp_path):
    from tokenizers.processors import BertProcessing

    words = ["a", "man", "plays", "the", "guitar", "while", "someone", "sings", "nobody", "makes", "music"]
    tokenizer = Tokenizer.train(words * 4, vocab_size=V, kind="wordpiece", progress=False)
    ends = [(tokenizer.special_tokens[role], getattr(tokenizer, f"{role}_id")) for role in ("end", "start")]
    tokenizer.engine.post_processor = BertProcessing(*ends)
    model = theirs(name, "SequenceClassification", num_labels=3, pad_token_id=tokenizer.pad_id)
    model.save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    draw = np.random.default_rng(0)
    pairs = [
        tuple(" ".join(draw.choice(words, n)) for n in lengths) for lengths in ((3, 2), (9, 30), (90, 40), (5, 99))
    ]
    other = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json"),
        pad_token=tokenizer.special_tokens["pad"],
        model_max_length=model.config.max_position_embeddings,
        model_input_names=["input_ids", "attention_mask", *(["token_type_ids"] if name == "Bert" else [])],
    )
    pipeline = transformers.pipeline("text-classification", model=model, tokenizer=other, top_k=None)
    expected = pipeline([{"text": a, "text_pair": b} for a, b in pairs], truncation=True)
    ours, read = kerasllm.load(tmp_path)
    for scores, answer in zip(expected, kerasllm.classify(ours, read, pairs), strict=True):
        assert answer.probabilities == pytest.approx({one["label"]: one["score"] for one in scores}, abs=1e-5)
