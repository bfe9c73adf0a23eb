"""Settings of published checkpoints: each is read, and computes what transformers computes of it."""

import collections
import json

import numpy as np
import pytest

import kerasllm
from kerasllm.huggingface.choosing import logit_fields
from kerasllm.huggingface.families import FAMILIES
from kerasllm.huggingface.settings import Settings, reference
from kerasllm.models import Seq2SeqLM
from kerasllm.tokenizers import Tokenizer

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch==2.13.0")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install kerasllm[parity]")
from parity.published import V, cut, of_ours  # noqa: E402
from parity.record_reference_settings import PATH, recorded  # noqa: E402

pytestmark = pytest.mark.parity

T = 40
LENGTHS = np.array([[T], [17]])
IDS = np.random.default_rng(0).integers(5, V - 1, (2, T))  # none of them padding
VISIBLE = np.arange(T) < LENGTHS


def test_what_is_recorded_is_what_transformers_reads():
    assert json.loads(PATH.read_text()) == recorded()


def groups():
    """Names and cut settings of those that transformers computes alike."""
    found = collections.defaultdict(dict)
    for name, values in of_ours():
        small = cut(values)
        if counts_other_tokens(small):
            continue
        config = transformers.CONFIG_MAPPING[small["model_type"]](**small)
        names = reference(small["model_type"])["settings"].keys() - {"per_layer_config"}
        read = {name: getattr(config, name, None) for name in names if "drop" not in name}
        found[small["model_type"], json.dumps(read, sort_keys=True, default=str)][name] = small
    return found.values()


def counts_other_tokens(values):
    """RoBERTa counts places over the tokens that are not `pad_token_id`. Where that is another than their padding, some
    tokens of a text are passed over in counting, which is not computed here."""
    return "roberta" in values["model_type"] and values.get("pad_token_id", 1) != 1


def test_places_that_pass_over_tokens_are_refused():
    for name, values in of_ours():
        if counts_other_tokens(cut(values)):
            with pytest.raises(ValueError, match=r"asks for pad_token_id=.*, and kerasllm computes only 1"):
                FAMILIES[values["model_type"]].fields(Settings(values, name))


@pytest.fixture(scope="module")
def tokenizer():
    letters = "".join(chr(ord("a") + i) for i in range(26)) + " .,!"
    return Tokenizer.train([letters], kind="char", progress=False)


def drawn(values):
    """A model of transformers with weights far from their initial values."""
    torch.manual_seed(0)
    config = transformers.CONFIG_MAPPING[values["model_type"]](**values)
    config._attn_implementation = "eager"
    model = getattr(transformers, FAMILIES[values["model_type"]].architecture)(config).float().eval()
    for name, parameter in model.named_parameters():
        is_scale = parameter.ndim == 1 and name.endswith("weight") and "gemma" not in values["model_type"]
        if parameter.requires_grad:
            parameter.data.normal_(1.0 if is_scale else 0.0, 0.2)
    return model


@torch.no_grad()
def theirs(model):
    inputs = {"input_ids": torch.tensor(IDS), "attention_mask": torch.tensor(VISIBLE)}
    if model.config.is_encoder_decoder:
        return model(**inputs, decoder_input_ids=torch.tensor(IDS[:, :9])).logits.numpy()
    return model(**inputs).logits.numpy()[VISIBLE]


def ours(model):
    if isinstance(model, Seq2SeqLM):
        return np.array(model({"source_ids": IDS, "source_mask": VISIBLE, "target_ids": IDS[:, :9]}))
    return np.array(model(IDS, padding_mask=VISIBLE))[VISIBLE]


@pytest.mark.parametrize("members", groups(), ids=lambda members: next(iter(members)))
def test_published_settings_compute_the_same(members, tokenizer, tmp_path):
    configs = []
    for number, values in enumerate(members.values()):
        if number == 0:
            model = drawn(values)
            model.save_pretrained(tmp_path / "theirs")
            tokenizer.save(tmp_path / "theirs")
            expected = theirs(model)
        (tmp_path / "theirs" / "config.json").write_text(json.dumps(values))
        found, _ = kerasllm.huggingface.load(tmp_path / "theirs")
        configs.append(found.config)
    assert np.abs(ours(found) - expected).max() < 2e-4
    assert all(logit_fields(config) == logit_fields(configs[0]) for config in configs)
    kerasllm.huggingface.save(found, tokenizer, tmp_path / "ours")
    auto = getattr(transformers, FAMILIES[values["model_type"]].architecture)
    again, report = auto.from_pretrained(tmp_path / "ours", attn_implementation="eager", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert np.abs(theirs(again.eval()) - expected).max() < 1e-4
    written = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert {name: value for name, value in values.items() if name.endswith("_token_id")}.items() <= written.items()
