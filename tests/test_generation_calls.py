"""Generation as people call it: whatever they call a prompt or an option, and models that cannot generate."""

import keras
import keras_nlp
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import kerasllm
from kerasllm import evaluation
from kerasllm.generation import Sampler, causality, generate_ids
from kerasllm.generation.prompts import as_prompts
from kerasllm.generation.samplers import get_sampler
from kerasllm.models import CausalLM, MaskedLM, Seq2SeqLM, TransformerConfig
from kerasllm.tokenizers import Tokenizer

TEXT = "to be or not to be, that is the question: whether it is nobler to suffer"
V = 24
SIZES = {"num_layers": 1, "d_model": 16, "num_heads": 2, "dff": 32, "max_length": 32}


@pytest.fixture(scope="module")
def model_and_tokenizer():
    tokenizer = Tokenizer.train([TEXT], kind="char", progress=False)
    return CausalLM(TransformerConfig(tokenizer.vocab_size, **SIZES)), tokenizer


def test_settings_of_a_draw_draw_and_without_any_it_is_greedy(model_and_tokenizer):
    assert (
        get_sampler() == get_sampler(temperature=0) == get_sampler("greedy", temperature=0.0) == get_sampler("greedy")
    )
    assert get_sampler(temperature=0.8) == get_sampler("random", temperature=0.8) == Sampler(temperature=0.8)
    assert get_sampler(top_p=0.9) == Sampler(top_p=0.9) and get_sampler(min_p=0.1) == Sampler(min_p=0.1)
    assert get_sampler(top_k=5) == get_sampler("random", top_k=np.int64(5))
    options = {"max_new_tokens": 12, "seed": 3, "cached": False}
    greedy = kerasllm.generate(*model_and_tokenizer, "to be", **options)
    drawn = kerasllm.generate(*model_and_tokenizer, "to be", temperature=2.0, **options)
    assert drawn != greedy == kerasllm.generate(*model_and_tokenizer, "to be", temperature=0, top_k=50, **options)
    assert drawn == kerasllm.generate(*model_and_tokenizer, "to be", sampler="random", temperature=2.0, **options)
    numpys = {"temperature": np.float32(2), "max_new_tokens": np.int64(12), "seed": np.uint8(3), "top_k": np.int32(0)}
    assert drawn == kerasllm.generate(*model_and_tokenizer, "to be", min_new_tokens=np.int8(0), **{**options, **numpys})


PROMPTS = [
    ("to be", ["to be"], True),
    (b"caf\xc3\xa9", ["café"], True),
    (np.str_("to"), ["to"], True),
    (np.array("to"), ["to"], True),
    (tf.constant("é"), ["é"], True),
    ("", [""], True),
    ([], [], False),
    (["a", b"b", np.str_("c"), tf.constant("d")], ["a", "b", "c", "d"], False),
    (("a", ""), ["a", ""], False),
    (np.array(["a", "bc"]), ["a", "bc"], False),
    (tf.constant(["a", "bc"]), ["a", "bc"], False),
    ((text for text in "ab"), ["a", "b"], False),
    ([3, np.int64(4)], [[3, 4]], True),
    (np.array([3, 4], "uint16"), [[3, 4]], True),
    (tf.constant([3, 4]), [[3, 4]], True),
    ([[3, 4], (5,), np.array([6])], [[3, 4], [5], [6]], False),
    (np.array([[3, 4], [5, 6]]), [[3, 4], [5, 6]], False),
    (tf.ragged.constant([[3, 4], [5]]), [[3, 4], [5]], False),
    ([[3], "a"], [[3], "a"], False),
]


@pytest.mark.parametrize(("given", "prompts", "is_one"), PROMPTS, ids=lambda value: type(value).__name__)
def test_prompts_are_strings_and_ids_of_all_kinds(given, prompts, is_one):
    found = as_prompts(given)
    assert found == ([{"text" if isinstance(prompt, str) else "token_ids": prompt} for prompt in prompts], is_one)
    read = [next(iter(prompt.values())) for prompt in found[0]]
    assert all(type(prompt) in (str, list) and all(type(i) in (int, str) for i in prompt) for prompt in read)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"input_ids": [[3]]}, "A prompt that is a dict has `text` or `token_ids`, got input_ids"),
        (3, "Prompts are texts, lists of token ids or dicts of inputs, got int"),
        (None, "got NoneType"),
        ([3.0, 4.0], "A prompt must be a str, a list of token ids .int. or a dict of inputs, got float"),
        (np.array([3.0]), "got float64"),
        (["a", None], "got NoneType"),
        ([[["a"]]], "got list"),
    ],
)
def test_what_is_no_prompt_is_refused_in_one_sentence(given, message):
    with pytest.raises(TypeError, match=message):
        as_prompts(given)


def test_bytes_of_another_encoding_are_refused():
    with pytest.raises(ValueError, match="Text in bytes must be UTF-8, and byte 3 of this one is not"):
        as_prompts("café".encode("latin-1"))


def test_ids_and_texts_continue_alike(model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    ids = tokenizer.encode("to be")
    options = {"max_new_tokens": 8, "cached": False}
    text = kerasllm.generate(model, tokenizer, "to be", **options)
    assert kerasllm.generate(model, tokenizer, ids, **options) == text
    assert kerasllm.generate(model, tokenizer, b"to be", **options) == text
    assert kerasllm.generate(model, tokenizer, np.array([ids]), **options) == [text]
    assert "".join(kerasllm.stream(model, tokenizer, ids, **options)) == text
    new = generate_ids(model, ids, **options)
    assert tokenizer.decode(new) == text and generate_ids(model, [ids], **options) == [new]
    with pytest.raises(TypeError, match=r"`stream` continues one prompt, got a list of 2: `generate` takes several"):
        kerasllm.stream(model, tokenizer, ["a", "b"])
    with pytest.raises(TypeError, match="`generate_ids` continues token ids, got text"):
        generate_ids(model, ["to be"])
    scores = evaluation.perplexity(model, tokenizer, [b"to be", np.str_("or"), tf.constant("not")])
    assert scores == evaluation.perplexity(model, tokenizer, tf.constant(["to be", "or", "not"]))
    assert scores == evaluation.perplexity(model, tokenizer, ["to be", "or", "not"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"do_sample": True}, "`generate` has no `do_sample`: sampler='random' draws"),
        ({"num_beams": 4}, "`generate` has no `num_beams`: .* `translate` searches with beams"),
        ({"max_length": 50}, "`generate` has no `max_length`: `max_new_tokens` counts the new tokens alone"),
        ({"max_tokens": 50}, "`generate` has no `max_tokens`: here it is `max_new_tokens`"),
        ({"num_return_sequences": 3}, r"draw, and give the prompt as often, \[prompt\] \* 3"),
        ({"eos_token_id": 2}, "`end_ids` lists the ids that end a text"),
        ({"stop_strings": ["."]}, "`generate` has no `stop_strings`: here it is `stop`"),
        ({"streamer": None}, "`kerasllm.stream` gives the text piece by piece"),
        ({"penalty_alpha": 0.6}, "`generate` has no `penalty_alpha`: generation does not compute it"),
        ({"temprature": 0.6}, "`generate` has no `temprature`. Did you mean `temperature`?"),
        ({"colour": "red"}, "`generate` has no `colour`. It takes model, prompts, max_new_tokens, .*, stop"),
    ],
)
def test_options_as_others_write_them_are_answered_with_ours(model_and_tokenizer, options, message):
    messages = [{"role": "user", "content": "to be"}]
    template = {"chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}"}
    for call in (
        lambda: kerasllm.generate(*model_and_tokenizer, "to be", **options),
        lambda: kerasllm.stream(*model_and_tokenizer, "to be", **options),
        lambda: kerasllm.chat(*model_and_tokenizer, messages, **template, **options),
        lambda: generate_ids(model_and_tokenizer[0], [3], **options),
    ):
        with pytest.raises(TypeError, match=message):
            call()


def test_other_functions_answer_with_our_words_too():
    for call, message in [
        (
            lambda: kerasllm.translate(None, None, "a", beam_size=4),
            "`translate` has no `beam_size`: here it is `num_beams`",
        ),
        (
            lambda: kerasllm.translate(None, None, "a", temperature=1),
            "searches for the likeliest text and draws nothing",
        ),
        (lambda: kerasllm.generate(None, None, prompt="to be"), "`generate` has no `prompt`: here it is `prompts`"),
        (lambda: TransformerConfig(9, n_layer=2), "`TransformerConfig` has no `n_layer`: here it is `num_layers`"),
        (lambda: TransformerConfig(9, **SIZES, droput=0.1), "no `droput`. Did you mean `dropout`?"),
        (lambda: kerasllm.data.causal_lm_dataset([], None, block_size=8), "no `block_size`: here it is `seq_len`"),
        (lambda: kerasllm.data.masked_lm_dataset([], None, mlm_probability=0.3), "here it is `mask_share`"),
        (lambda: kerasllm.data.seq2seq_dataset([], None, batch_size=3), "`batch_tokens` is the most tokens"),
    ]:
        with pytest.raises(TypeError, match=message):
            call()
    with pytest.raises(ValueError, match="Unknown TransformerConfig field n_embd: here it is `d_model`"):
        TransformerConfig.preset("gpt2", n_embd=64)
    with pytest.raises(ValueError, match="field hidden_size, num_hidden_layers: here it is `d_model`"):
        TransformerConfig.from_dict({"hidden_size": 9, "num_hidden_layers": 2})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 2.5}, "`top_k` must be an integer, got 2.5"),
        ({"top_k": -1}, "`top_k` must be at least 0, got -1"),
        ({"temperature": "hot"}, "`temperature` must be a number, got 'hot'"),
        ({"temperature": float("nan")}, "`temperature` must be at least 0, got nan"),
        ({"temperature": float("inf")}, "`temperature` must be at least 0"),
        ({"max_new_tokens": 2.0}, "`max_new_tokens` must be an integer, got 2.0"),
        ({"seed": "x"}, "`seed` must be an integer, got 'x'"),
        ({"repetition_penalty": 0}, "`repetition_penalty` must be more than 0"),
        ({"sampler": "greedy", "top_k": 50}, "The greedy sampler takes no top_k: it always takes the likeliest token"),
    ],
)
def test_numbers_out_of_range_are_refused(model_and_tokenizer, options, message):
    with pytest.raises(ValueError, match=message):
        kerasllm.generate(*model_and_tokenizer, "to be", **options)


def test_a_call_with_other_things_in_another_order_is_refused(model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    with pytest.raises(TypeError, match="takes a Keras model, its tokenizer and prompts, in this order"):
        kerasllm.generate("gpt2", tokenizer, "to be")
    for kind in (MaskedLM, Seq2SeqLM):
        with pytest.raises(TypeError, match=f"`generate` continues texts, got a {kind.__name__}"):
            kerasllm.generate(kind(model.config), tokenizer, "to be")


@pytest.fixture
def spoilt(model_and_tokenizer, request):
    """The model with values that are no numbers in its embedding of token 5."""
    table = model_and_tokenizer[0].token_embedding.embeddings
    whole = ops.convert_to_numpy(table)
    table.assign(np.where(np.arange(len(whole))[:, None] == 5, request.param, whole))
    yield model_and_tokenizer
    table.assign(whole)


@pytest.mark.parametrize("spoilt", [np.nan, np.inf, -np.inf], indirect=True)
def test_weights_that_are_no_numbers_are_refused(spoilt):
    for call in (
        lambda: kerasllm.generate(*spoilt, ["to be", "or"], 4, cached=False),
        lambda: list(kerasllm.stream(*spoilt, "to be", 4, temperature=0.5, cached=False)),
        lambda: evaluation.perplexity(*spoilt, TEXT),
    ):
        with pytest.raises(ValueError, match="The model's logits are not finite, so it has diverged"):
            call()


def test_a_token_that_spoils_what_follows_is_noticed_when_it_is_drawn(model_and_tokenizer):
    ids = keras.Input((None,), dtype="int32")
    table = keras.layers.Embedding(V, V)
    model = keras.Model(ids, table(ids))
    rows = np.eye(V, dtype="float32")[[*range(1, V), 0]]  # each token names the next one
    rows[8] = np.nan
    table.set_weights([rows])
    assert generate_ids(model, [3], 5) == [4, 5, 6, 7, 8]
    for prompts in ([3], [[9], [3]]):
        with pytest.raises(ValueError, match="logits are not finite"):
            generate_ids(model, prompts, 6)
    rows[8] = -np.inf
    rows[8, 9] = 0  # A model may rule all others out.
    table.set_weights([rows])
    assert generate_ids(model, [3], 6) == [4, 5, 6, 7, 8, 9]


def own_model(*layers, length=None):
    ids = keras.Input((length,), dtype="int32")
    x = keras.layers.Embedding(V, 16)(ids)
    for layer in layers:
        x = layer(x)
    return keras.Model(ids, keras.layers.Dense(V)(x))


def pooled(x):
    return x + ops.mean(x, axis=1, keepdims=True)


NOT_CAUSAL = {
    "causal=False": lambda: own_model(kerasllm.layers.Transformer(1, 16, 2, 32, causal=False)),
    "a bidirectional LSTM": lambda: own_model(keras.layers.Bidirectional(keras.layers.LSTM(8, return_sequences=True))),
    "pooling": lambda: own_model(keras.layers.Lambda(pooled)),
    "a centred convolution": lambda: own_model(keras.layers.Conv1D(16, 3, padding="same"), length=12),
}


@pytest.mark.parametrize("name", NOT_CAUSAL)
def test_models_that_are_not_causal_neither_generate_nor_are_scored_nor_exported(model_and_tokenizer, name, tmp_path):
    model = NOT_CAUSAL[name]()
    refused = pytest.raises(
        ValueError, match=f"{model.name} is not causal: a later token changes the logits of earlier"
    )
    with refused:
        generate_ids(model, [3, 4], 2)
    with refused:
        evaluation.score_tokens(model, np.arange(9), context=8)
    if model.input_shape[1] is None:
        with refused:
            kerasllm.export.saved_model(model, model_and_tokenizer[1], tmp_path / "exported")


@pytest.mark.parametrize("length", [None, 12])
def test_causal_models_are_tried_once(length, monkeypatch):
    model = own_model(keras.layers.LSTM(8, return_sequences=True), length=length)
    assert len(generate_ids(model, [3, 4], 2)) == 2
    monkeypatch.setattr(causality, "fixed_length", lambda model: pytest.fail("tried again"))
    generate_ids(model, [3, 5], 2)


def test_a_model_that_is_never_the_same_twice_is_not_taken_for_one_that_looks_ahead():
    model = own_model(keras.layers.Lambda(lambda x: x + keras.random.normal(ops.shape(x))))
    assert len(generate_ids(model, [3, 4], 2)) == 2


def test_the_name_of_a_file_is_no_text_to_score(model_and_tokenizer, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    with pytest.raises(ValueError, match=r"text\.txt is a file; kerasllm\.data\.read_text"):
        evaluation.perplexity(*model_and_tokenizer, str(path))
    with pytest.raises(TypeError, match="an item of type int; each document is a str; `score_tokens` scores ids"):
        evaluation.perplexity(*model_and_tokenizer, [3, 4])
    with pytest.raises(TypeError, match="documents is of type dict"):
        evaluation.perplexity(*model_and_tokenizer, {"text": TEXT})


def test_what_models_of_other_libraries_do_is_found_where_it_is(model_and_tokenizer):
    model = model_and_tokenizer[0]
    for name, place in [("generate", "kerasllm.generate"), ("save_pretrained", "kerasllm.huggingface.save")]:
        with pytest.raises(AttributeError, match=rf"no attribute '{name}': {place}\(model, tokenizer, …\) does that"):
            getattr(model, name)
    with pytest.raises(AttributeError, match=r"'CausalLM' object has no attribute 'colour'$"):
        model.colour  # noqa: B018
    ids = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(V, 16)(ids)
    with pytest.raises(ValueError, match=r"has several outputs; keras\.Model\(model\.inputs, model\.outputs\[0\]\)"):
        generate_ids(keras.Model(ids, [keras.layers.Dense(V)(x), x]), [3])
    sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16, "max_sequence_length": 8}
    with pytest.raises(ValueError, match=r"kerasllm\.keras_hub\.load\(its backbone\) makes one"):
        generate_ids(keras_nlp.models.GPT2Backbone(vocabulary_size=V, **sizes), [3])


def test_ids_that_end_a_text_and_classes_of_samplers(model_and_tokenizer):
    model = model_and_tokenizer[0]
    (first, *_), options = generate_ids(model, [3], 2, cached=False), {"cached": False, "max_new_tokens": 2}
    assert generate_ids(model, [3], end_ids=first, **options) == []
    assert generate_ids(model, [3], end_ids=np.array([first]), **options) == []
    with pytest.raises(ValueError, match="`end_ids` must be an integer, got 'x'"):
        generate_ids(model, [3], end_ids=["x"])
    with pytest.raises(TypeError, match=r"`sampler` must be a name .* or a callable, got <class"):
        generate_ids(model, [3], sampler=Sampler)


def test_translations_take_strings_of_all_kinds():
    tokenizer = Tokenizer.train([TEXT], kind="char", progress=False)
    model = Seq2SeqLM(TransformerConfig(tokenizer.vocab_size, num_encoder_layers=1, **SIZES))
    options = {"num_beams": 1, "max_new_tokens": 3}
    text = kerasllm.translate(model, tokenizer, "to be", **options)
    assert kerasllm.translate(model, tokenizer, b"to be", **options) == text
    assert kerasllm.translate(model, tokenizer, tf.constant("to be"), **options) == text
    assert kerasllm.translate(model, tokenizer, tf.constant(["to be"]), **options) == [text]
    for wrong, message in [([3], "text 0 is of type int"), ({"a": "b"}, "got dict"), (3, "got int")]:
        with pytest.raises(TypeError, match=message):
            kerasllm.translate(model, tokenizer, wrong, **options)
