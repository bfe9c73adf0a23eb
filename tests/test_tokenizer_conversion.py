"""Tokenizers of transformers and of `tokenizers` where one of ours is asked for."""

import keras
import pytest
import tokenizers
from chat_templates import MESSAGES, chat_tokenizer

import kerasllm
from kerasllm.models import CausalLM, TransformerConfig
from kerasllm.tokenizers import as_tokenizer


class Fast:
    """What a `PreTrainedTokenizerFast` of transformers has, as far as it is read; its own `encode` is not."""

    def __init__(self, ours):
        self.backend_tokenizer = tokenizers.Tokenizer.from_str(ours.engine.to_str())
        self.pad_token, self.bos_token, self.eos_token = (ours.special_tokens[r] for r in ("pad", "start", "end"))
        self.chat_template = ours.chat_template

    def encode(self, text):
        raise AssertionError("its special tokens in texts are no text")

    decode = convert_tokens_to_ids = encode


@pytest.fixture(scope="module")
def ours():
    return chat_tokenizer("chatml")


@pytest.fixture(scope="module")
def model(ours):
    return CausalLM(TransformerConfig(ours.vocab_size, num_layers=1, d_model=16, num_heads=2, dff=16, max_length=256))


def test_a_tokenizer_of_transformers_works_where_ours_does(ours, model, tmp_path):
    theirs, text = Fast(ours), "to be <|endoftext|>"
    theirs.backend_tokenizer.enable_truncation(2)
    assert as_tokenizer(ours) is ours and as_tokenizer(theirs) is as_tokenizer(theirs)
    assert as_tokenizer(theirs.backend_tokenizer).encode(text) == ours.encode(text)
    assert theirs.backend_tokenizer.truncation is not None
    for call in (
        lambda t: kerasllm.generate(model, t, text, 3, cached=False),
        lambda t: list(kerasllm.stream(model, t, text, 3, cached=False)),
        lambda t: kerasllm.chat(model, t, MESSAGES, 3, cached=False),
        lambda t: kerasllm.evaluation.perplexity(model, t, text).loss,
        lambda t: next(iter(kerasllm.data.causal_lm_dataset([text], t, 4, 1, progress=False)))[0].numpy().tolist(),
        lambda t: kerasllm.tokenizers.sides.as_pair((t, t))[0].encode(text),
    ):
        assert call(theirs) == call(ours)
    kerasllm.save(model, theirs, tmp_path / "run")
    assert kerasllm.load(tmp_path / "run")[1].encode_chat(MESSAGES) == ours.encode_chat(MESSAGES)


def test_what_is_set_later_is_heeded(ours):
    theirs = Fast(ours)
    assert as_tokenizer(theirs).end_id == ours.end_id
    theirs.eos_token, theirs.chat_template = "<|im_end|>", {"default": "a", "tool_use": "b"}
    assert as_tokenizer(theirs).end_id == ours.engine.token_to_id("<|im_end|>")
    assert as_tokenizer(theirs).chat_template == "a"


@pytest.mark.parametrize("wrong", ["bpe", None, keras.Sequential([])])
def test_anything_else_is_refused_in_one_sentence(model, wrong, tmp_path):
    for call in (
        lambda: kerasllm.generate(model, wrong, "a", 1),
        lambda: kerasllm.stream(model, wrong, "a", 1),
        lambda: kerasllm.chat(model, wrong, MESSAGES, 1),
        lambda: kerasllm.evaluation.perplexity(model, wrong, "a"),
        lambda: kerasllm.data.causal_lm_dataset(["a"], wrong, 1, 1),
        lambda: kerasllm.save(model, wrong, tmp_path / "no"),
        lambda: kerasllm.export.saved_model(model, wrong, tmp_path / "no"),
    ):
        with pytest.raises(TypeError, match=r"A tokenizer is a kerasllm.tokenizers.Tokenizer, got .*Tokenizer.load"):
            call()


def test_a_slow_tokenizer_of_transformers_is_refused(ours):
    theirs = Fast(ours)
    theirs.backend_tokenizer = None
    with pytest.raises(TypeError, match="A Fast of transformers without a fast engine cannot be read"):
        as_tokenizer(theirs)
