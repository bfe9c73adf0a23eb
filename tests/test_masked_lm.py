"""Masked language models: the model against NumPy, what is hidden from it, and how well it names what was hidden."""

import dataclasses
import inspect
import json
import re
from collections import Counter
from itertools import pairwise

import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
import tokenizers
from keras import ops
from oracles import below, scramble, weights_of

import kerasllm
from kerasllm.data import masked_lm_dataset
from kerasllm.data.masking import hide, join_units, number_units
from kerasllm.evaluation import masked_accuracy, pseudo_perplexity
from kerasllm.layers import taps
from kerasllm.models import CausalLM, MaskedLM, Seq2SeqLM, TransformerConfig
from kerasllm.models.growing import with_fields
from kerasllm.models.weights import weight_names
from kerasllm.tokenizers import Tokenizer
from kerasllm.tokenizers.masks import ordinary_ids, word_joins

SMALL = {"vocab_size": 17, "num_layers": 2, "d_model": 12, "num_heads": 3, "dff": 20, "max_length": 16}
VARIANTS = {
    "BERT": TransformerConfig.preset("bert-laptop", **SMALL),
    "RoBERTa": TransformerConfig.preset("roberta", **SMALL),
    "ALBERT": TransformerConfig.preset("bert-laptop", **SMALL, embedding_size=8, num_layer_groups=1),
    "as it comes": TransformerConfig(**SMALL),
    "untied, no bias": TransformerConfig(**SMALL, tie_embeddings=False, use_bias=False, norm="rms", activation="silu"),
}
RNG = np.random.default_rng(0)
IDS = RNG.integers(1, 17, (3, 9)).astype("int32")
DOCUMENTS = np.array([[1] * 5 + [2] * 4, [1] * 2 + [2] * 5 + [0] * 2, [1] * 9], "int32")
TEXT = (
    "First Citizen: Before we proceed any further, hear me speak. All: Speak, speak! The catalogue's 1234 pages; "
    "further citizens proceed to the council hall, where speaking is heard (and hearing spoken).\n"
)
WORDS = TEXT.split()
TEXTS = [" ".join(np.random.default_rng(n).choice(WORDS, 5 + 7 * (n % 6))) for n in range(60)]
KINDS = ("bpe", "wordpiece", "unigram", "char", "byte")
TOKENIZERS = {
    kind: Tokenizer.train([TEXT], vocab_size=330, kind=kind, special_tokens=["<|mask|>"], progress=False)
    for kind in KINDS
}
BPE = TOKENIZERS["bpe"]


@pytest.fixture(params=VARIANTS)
def model(request):
    return scramble(MaskedLM(VARIANTS[request.param]))


def small(tokenizer=BPE, **options):
    keras.utils.set_random_seed(0)
    sizes = {**SMALL, "vocab_size": tokenizer.vocab_size, "dropout": 0.0, **options}
    return MaskedLM(TransformerConfig.preset("bert-laptop", **sizes))


# The model.


def numpy_logits(w, config, ids, document_ids=None, token_type_ids=0):
    """BERT by its paper; `oracles.transformer` adds positions, normalises and goes through the blocks."""
    fields = {
        name: value for name, value in oracles.transformer_options(config).items() if name not in oracles.TRAINING_ONLY
    }
    fields |= {"num_layers": config.num_layers, "num_heads": config.num_heads, "document_ids": document_ids}
    embeddings = w["token_embedding/embeddings"]
    x = embeddings[ids]
    if config.num_token_types:
        x = x + w["token_type_embedding/embeddings"][np.broadcast_to(token_type_ids, ids.shape)]
    x = oracles.transformer(below(w, "transformer"), x, causal=False, **fields)
    x = oracles.ACTIVATIONS[config.activation](oracles.dense(below(w, "head_dense"), x))
    x = oracles.normalise(below(w, "head_norm"), x, config.norm_epsilon)
    return x @ w.get("token_embedding/reverse_embeddings", embeddings.T) + w.get("output_bias", 0.0)


def test_the_model_computes_what_its_paper_says(model):
    w, config = weights_of(model), model.config
    w["output_bias"] = w.get("output_bias", 0.0)
    np.testing.assert_allclose(model(IDS), numpy_logits(w, config, IDS), atol=1e-4, rtol=1e-5)
    packed = model({"token_ids": IDS, "document_ids": DOCUMENTS})
    np.testing.assert_allclose(packed, numpy_logits(w, config, IDS, DOCUMENTS), atol=1e-4, rtol=1e-5)


def test_token_types_are_added_before_the_norm():
    model, types = scramble(MaskedLM(VARIANTS["BERT"])), np.sort(RNG.integers(0, 2, (3, 9)), axis=1)
    logits = model({"token_ids": IDS, "token_type_ids": types})
    expected = numpy_logits(weights_of(model), model.config, IDS, token_type_ids=types)
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=1e-5)
    assert np.abs(logits - model(IDS)).max() > 0.1
    np.testing.assert_array_equal(model({"token_ids": IDS, "token_type_ids": 0 * types}), model(IDS))
    with pytest.raises(ValueError, match="no token types: leave token_type_ids out, or make its config"):
        MaskedLM(VARIANTS["RoBERTa"])({"token_ids": IDS, "token_type_ids": types})


def gradients(model, remat=None):
    """Of the sum of the squares of logits, by name."""
    model = with_fields(model, remat=remat)
    with tf.GradientTape() as tape:
        loss = ops.sum(ops.square(model(IDS, training=True)))
    found = tape.gradient(loss, [weight.value for weight in model.trainable_weights])
    found = map(ops.convert_to_numpy, map(tf.convert_to_tensor, found))
    return dict(zip([v.path.partition("/")[2] for v in model.trainable_weights], found, strict=True))


@pytest.mark.parametrize("groups", [1, 2])
def test_shared_layers_are_equal_ones_and_learn_together(groups):
    """Beside a model whose four layers have the same weights each."""
    fields = {**VARIANTS["ALBERT"].to_dict(), "num_layers": 4, "dropout": 0.0}
    shared = scramble(MaskedLM(TransformerConfig(**{**fields, "num_layer_groups": groups})))
    twin = MaskedLM(TransformerConfig(**{**fields, "num_layer_groups": None}))
    assert twin.count_params() - shared.count_params() == twin.config.num_parameters() - shared.config.num_parameters()
    assert twin.config.flops_per_token() == shared.config.flops_per_token()

    def owner(name):
        return re.sub(r"block_(\d)", lambda found: f"block_{int(found[1]) * groups // 4}", name)

    weights = weight_names(shared)
    for name, weight in weight_names(twin).items():
        weight.assign(weights[owner(name)])
    np.testing.assert_array_equal(shared(IDS), twin(IDS))
    expected = {}
    for name, gradient in gradients(twin).items():
        expected[owner(name)] = expected.get(owner(name), 0) + gradient
    for remat in (None, "block"):
        for name, gradient in gradients(shared, remat).items():
            np.testing.assert_allclose(gradient, expected[name], rtol=1e-3, atol=1e-3 * np.abs(expected[name]).max())
    with taps.recording("block_0/output", "block_1/output") as found:
        shared(IDS)
    assert [len(passed) for passed in found.values()] == [4 // groups] * groups


def test_what_cannot_be_shared_or_narrow_is_refused():
    config = VARIANTS["ALBERT"]
    with pytest.raises(ValueError, match="A CausalLM has embeddings as wide as its layers, got embedding_size=8"):
        CausalLM(config)
    with pytest.raises(ValueError, match="A Seq2SeqLM shares no layers, got num_layer_groups=1"):
        Seq2SeqLM(dataclasses.replace(config, embedding_size=None))


def test_each_place_sees_both_ways(model):
    logits = np.array(model(IDS))
    for changed in (0, 4, 8):
        ids = IDS.copy()
        ids[:, changed] = ids[:, changed] % 16 + 1
        assert (np.abs(np.array(model(ids)) - logits).max(axis=(0, 2)) > 1e-4).all()


def test_padding_changes_nothing_that_counts(model):
    expected = np.array(model(IDS[:, :6]))
    for padding in (0, 7):
        ids = IDS.copy()
        ids[:, 6:] = padding
        visible = np.broadcast_to(np.arange(9) < 6, ids.shape)
        as_document = {"token_ids": ids, "document_ids": visible.astype("int32")}
        for logits in (model(ids, padding_mask=visible), model(as_document)):
            np.testing.assert_allclose(np.array(logits)[:, :6], expected, atol=1e-5)


def test_the_contract_of_keras(tmp_path):
    model = scramble(MaskedLM(VARIANTS["BERT"], name="guesser"))
    weight = (RNG.random((3, 9)) < 0.5).astype("float32")
    inputs = {"token_ids": IDS, "document_ids": DOCUMENTS, "token_type_ids": np.zeros_like(IDS)}
    np.testing.assert_allclose(model.predict(inputs, verbose=0, batch_size=2), model(inputs), atol=1e-5)
    model.compile(run_eagerly=True)
    before = model.get_weights()
    assert model.fit(inputs, IDS, sample_weight=weight, verbose=0).history.keys() == {"loss", "perplexity"}
    for v, old in zip(model.weights, before, strict=True):
        assert not np.array_equal(v, old), f"training never reaches {v.path}"
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert (loaded.name, loaded.config) == ("guesser", model.config)
    np.testing.assert_array_equal(loaded(inputs), model(inputs))
    assert loaded.evaluate(inputs, IDS, sample_weight=weight, verbose=0) == model.evaluate(
        inputs, IDS, sample_weight=weight, verbose=0
    )


def test_a_run_folder_holds_it(tmp_path):
    model = scramble(small())
    kerasllm.save(model, BPE, tmp_path / "run")
    loaded, tokenizer = kerasllm.load(tmp_path / "run")
    assert type(loaded) is MaskedLM and tokenizer.mask_id == BPE.mask_id
    np.testing.assert_array_equal(loaded(IDS), model(IDS))


def count(config):
    """Parameters of a `MaskedLM`: those of a `CausalLM`, token types, the head and its bias for each token."""
    D = config.d_model
    return config.num_parameters() + config.num_token_types * D + D * D + 3 * D + config.vocab_size


def test_presets_have_exactly_the_published_number_of_parameters():
    laptop = TransformerConfig.preset("bert-laptop")
    assert count(laptop) == MaskedLM(laptop).count_params()
    counts = {name: count(TransformerConfig.preset(f"{name}")) for name in ("bert", "bert-large", "roberta-large")}
    # Sums over the checkpoints' tensors at https://huggingface.co/google-bert, without the pooler and the head of
    # BERT's second task: D * D + D and 2 * D + 2.
    assert counts["bert"] == 110_106_428 - (768 * 768 + 768) - (2 * 768 + 2)
    assert counts["bert-large"] == 336_226_108 - (1024 * 1024 + 1024) - (2 * 1024 + 2)
    # https://huggingface.co/FacebookAI has two positions more, which are never used, and one token type.
    assert count(TransformerConfig.preset("roberta")) == 124_697_433 - 3 * 768
    assert counts["roberta-large"] == 355_412_057 - 3 * 1024


SECOND_PROCESS = """
import keras
import numpy as np
from kerasllm.models import MaskedLM, TransformerConfig
with np.load({path!r}) as file:
    arrays = dict(file)
model = MaskedLM(TransformerConfig.preset("bert-laptop", **{sizes!r}))
model.set_weights([arrays[f"weight_{{i}}"] for i in range(len(model.weights))])
inputs = {{"token_ids": arrays["ids"], "document_ids": arrays["documents"]}}
np.save({path!r} + ".npy", keras.ops.convert_to_numpy(model(inputs)))
"""


@pytest.mark.soak  # test_jax.py shows it of the same blocks
def test_other_backends_give_the_same_logits(run_python, tmp_path, other_backend):
    model, path = scramble(MaskedLM(VARIANTS["BERT"])), str(tmp_path / "numbers.npz")
    weights = {f"weight_{i}": weight for i, weight in enumerate(model.get_weights())}
    np.savez(path, ids=IDS, documents=DOCUMENTS, **weights)
    run_python(SECOND_PROCESS.format(path=path, sizes=SMALL), backend=other_backend, hide=["tensorflow"])
    expected = model({"token_ids": IDS, "document_ids": DOCUMENTS})
    np.testing.assert_allclose(np.load(f"{path}.npy"), expected, atol=5e-5)


# The tokenizer's part.


@pytest.mark.parametrize("name", ["<|mask|>", "[MASK]", "<mask>"])
def test_the_mask_token_is_found_by_its_usual_names_and_kept(name, tmp_path):
    tokenizer = Tokenizer.train([TEXT], kind="char", special_tokens=[name], progress=False)
    tokenizer.save(tmp_path)
    assert tokenizer.mask_id == Tokenizer.load(tmp_path).mask_id == 3
    assert tokenizer.special_tokens["mask"] == name
    assert tokenizer.mask_id not in tokenizer.encode(name)


def test_a_mask_token_of_another_name_is_kept(tmp_path):
    engine = Tokenizer.train([TEXT], kind="char", special_tokens=["<|hidden|>"], progress=False).engine
    assert Tokenizer(engine).mask_id is None
    Tokenizer(engine, mask="<|hidden|>").save(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["mask_token"] == "<|hidden|>"
    assert Tokenizer.load(tmp_path).encode_masked("me<|hidden|>")[-1] == 3


def test_a_tokenizer_without_a_mask_says_how_to_get_one():
    tokenizer = Tokenizer.train([TEXT], kind="char", progress=False)
    assert tokenizer.mask_id is None
    for ask in (
        lambda: tokenizer.encode_masked(TEXT),
        lambda: batches(tokenizer=tokenizer),
        lambda: kerasllm.fill_mask(small(tokenizer), tokenizer, TEXT),
        lambda: pseudo_perplexity(small(tokenizer), tokenizer, TEXT),
    ):
        with pytest.raises(ValueError, match=re.escape('Tokenizer.train(..., special_tokens=["<|mask|>"])')):
            ask()


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_stands_where_a_token_stood(kind):
    """A text in which a token was hidden gives the ids of the whole text, but for that one."""
    tokenizer = TOKENIZERS[kind]
    assert Counter(tokenizer.encode_masked("<|pad|> <|mask|> <|endoftext|>"))[tokenizer.mask_id] == 1
    assert not {tokenizer.pad_id, tokenizer.end_id} & set(tokenizer.encode_masked("<|pad|> <|mask|> <|endoftext|>"))
    for text in ("we proceed to speak, further", "hear me speak!", "speak"):
        ids = tokenizer.encode(text)
        decoder = tokenizer.engine.decoder
        pieces = [decoder.decode(["", tokenizer.engine.id_to_token(i)]) for i in ids]
        for place, piece in enumerate(pieces):
            before, behind = "".join(pieces[:place]), "".join(pieces[place + 1 :])
            if kind == "wordpiece" and behind[:1].isalpha():
                continue  # without the word's beginning, what follows would be one
            if kind in ("bpe", "unigram") and before.endswith(" "):
                continue  # a mask stands for the space before it, too
            space = " " if kind == "wordpiece" or re.match(" .", piece) else ""
            masked = before + space + "<|mask|>" + behind
            if kind == "unigram":
                masked = masked.removeprefix(" ")
            assert tokenizer.encode_masked(masked) == [*ids[:place], tokenizer.mask_id, *ids[place + 1 :]], masked


@pytest.mark.parametrize("kind", KINDS)
def test_the_tokens_of_a_word_are_known(kind):
    """Against the words that Python's `re` finds in the decoded text."""
    tokenizer = TOKENIZERS[kind]
    ids = np.array(tokenizer.encode(TEXT.replace("\n", "")))
    begins_inside, ends_inside = word_joins(tokenizer)
    assert not (begins_inside | ends_inside)[:4].any()
    joined = [False, *(begins_inside[ids[1:]] & ends_inside[ids[:-1]])]
    pieces = [tokenizer.engine.decoder.decode(["", tokenizer.engine.id_to_token(i)]) for i in ids]
    words = []
    for piece, goes_on in zip(pieces, joined, strict=True):
        words = [*words[:-1], words[-1] + piece] if goes_on else [*words, piece]
    assert [word.strip() for word in words if word.strip().isalnum()] == re.findall(r"\w+", TEXT)
    assert not any(word == " " and after[0].isalnum() for word, after in pairwise(words))


def test_a_vocabulary_without_words_is_refused():
    engine = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[MASK]": 0, "word": 1}, "word"))
    with pytest.raises(ValueError, match=r"does not show which tokens make a word.*mask single tokens"):
        masked_lm_dataset(["word"], Tokenizer(engine), 4, 1, strategy="word")


# What is hidden.


def batches(texts=TEXTS, tokenizer=BPE, seq_len=32, batch_size=4, **options):
    return masked_lm_dataset(texts, tokenizer, seq_len, batch_size, progress=False, **options)


def arrays(dataset):
    """All windows: token_ids, document_ids, labels and weights, each (windows, T)."""
    found = [(x["token_ids"], x["document_ids"], labels, weight) for x, labels, weight in dataset.as_numpy_iterator()]
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("strategy", ["token", "word", "span"])
def test_shares_are_those_of_bert(strategy, packed):
    dataset = batches(strategy=strategy, packed=packed, epochs=40, mask_share=0.3)
    ids, documents, labels, weight = arrays(dataset)
    assert len(ids) == 4 * len(dataset) and set(np.unique(weight)) == {0, 1}
    chosen, real = weight > 0, documents > 0
    ordinary = ordinary_ids(BPE)
    assert chosen[ordinary[labels] & real].mean() == pytest.approx(0.3, abs=0.015)
    fates = {
        "masked": (ids == BPE.mask_id)[chosen].mean(),
        "kept": (ids == labels)[chosen].mean(),
    }
    by_chance = 0.1 / ordinary.sum()
    assert fates == pytest.approx({"masked": 0.8, "kept": 0.1 + by_chance}, abs=0.02)
    assert (ids == labels)[~chosen].all()
    assert ordinary[labels[chosen]].all() and not chosen[~real].any()
    replaced = chosen & (ids != BPE.mask_id) & (ids != labels)
    assert ordinary[ids[replaced]].all() and len(np.unique(ids[replaced])) > 0.9 * ordinary.sum()


@pytest.mark.parametrize("strategy", ["token", "word", "span"])
def test_what_is_hidden_is_a_function_of_seed_and_step(strategy):
    def run(**options):
        return np.stack(arrays(batches(strategy=strategy, epochs=2, packed=True, **options)), axis=1)

    whole = run(seed=5)
    assert np.array_equal(whole, run(seed=5)) and not np.array_equal(whole, run(seed=6))
    assert not np.array_equal(run(seed=5, shuffle=False), run(seed=6, shuffle=False))
    for step in (1, len(whole) // 8, len(whole) // 8 + 2):
        assert np.array_equal(whole[4 * step :], run(seed=5, start_step=step))
    epochs = [{tuple(row[2]): row[3] for row in half} for half in np.split(whole, 2)]
    both = epochs[0].keys() & epochs[1].keys()
    same = [np.array_equal(epochs[0][labels], epochs[1][labels]) for labels in both]
    assert len(both) > 10 and np.mean(same) < 0.3  # in a short window, often nothing is hidden


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strategy", ["word", "span"])
def test_words_are_hidden_whole(kind, strategy):
    tokenizer = TOKENIZERS[kind]
    _, documents, labels, weight = arrays(batches(tokenizer=tokenizer, strategy=strategy, packed=True, seq_len=48))
    ordinary, split = ordinary_ids(tokenizer), 0
    for row, chosen, of in zip(labels, weight > 0, documents, strict=True):
        for number in range(1, of.max() + 1):
            places = np.flatnonzero((of == number) & ordinary[row])
            tokens = [tokenizer.engine.id_to_token(i) for i in row[places]]
            text, owners = "", []
            for place, token in zip(places, tokens, strict=True):
                piece = tokenizer.engine.decoder.decode(["", token])
                text, owners = text + piece, owners + [place] * len(piece)
            for word in re.finditer(r"\w+", text):
                parts = sorted({owners[i] for i in range(*word.span())})
                assert len(set(chosen[parts])) == 1, (text, word)
                split += len(parts) > 1
    assert split > 20


def test_spans_are_words_side_by_side():
    draw = np.random.default_rng(0)
    ids = draw.integers(0, 3, (50, 200))  # 0 is special, 1 begins a word, 2 goes on with it
    documents = np.sort(draw.integers(0, 2, ids.shape), axis=1) + 1
    allowed = ids > 0
    words = number_units(ids, documents, allowed, (ids[0, :3] * 0 + np.arange(3) == 2, np.arange(3) > 0))
    spans = join_units(words, documents, allowed, draw)
    assert (np.diff(spans.ravel()) >= 0).all() and spans[0, 0] == 0
    for number in range(spans.max() + 1):
        row, place = np.nonzero(spans == number)
        assert len(set(row)) == 1 and len(set(documents[row, place])) == 1
        assert allowed[row, place].all() or len(row) == 1
        assert not np.isin(words[spans != number], words[row, place]).any()
    no_breaks = np.ones((1, 60_000), int)
    spans = join_units(number_units(no_breaks, no_breaks, no_breaks > 0), no_breaks, no_breaks > 0, draw)
    lengths = np.bincount(spans[0])
    assert lengths.max() == 10 and lengths.mean() == pytest.approx(3.8, abs=0.1)  # SpanBERT, section 3.1
    assert np.mean(lengths == 1) / np.mean(lengths == 2) == pytest.approx(1 / 0.8, rel=0.1)


def test_a_span_has_one_fate():
    ids, _, _, weight = arrays(batches(strategy="span", mask_share=0.1, epochs=20))
    chosen = weight > 0
    alone = chosen[:, 1:-1] & ~chosen[:, :-2] & ~chosen[:, 2:]
    both = chosen[:, 1:] & chosen[:, :-1]
    masked = ids == BPE.mask_id
    assert both.sum() > 3 * alone.sum() > 0
    assert (masked[:, 1:] == masked[:, :-1])[both].mean() > 0.9  # two spans may touch


def test_hiding_by_hand():
    chosen, fates = np.array([[1, 1, 1, 1, 0]], bool), np.array([[0.0, 0.79, 0.89, 0.91, 0.0]])
    assert hide(np.arange(5)[None] + 10, chosen, fates, 3, np.arange(5)[None] + 20).tolist() == [[3, 3, 22, 13, 14]]


@pytest.mark.parametrize("packed", [False, True])
def test_validation_shows_every_token_once(packed):
    _, documents, labels, _ = arrays(batches(shuffle=False, packed=packed, batch_size=7))
    seen = Counter(labels[documents > 0].tolist())
    assert seen == Counter(i for text in TEXTS for i in [*BPE.encode(text), BPE.end_id])
    assert (labels[documents == 0] == BPE.pad_id).all() and (documents == 0).any()
    if packed:
        for row, of in zip(labels, documents, strict=True):
            for number in range(1, of.max() + 1):
                assert BPE.end_id not in row[of == number][:-1]
    else:
        stream = [i for text in TEXTS for i in [*BPE.encode(text), BPE.end_id]]
        assert labels[documents > 0].tolist() == stream and set(np.unique(documents)) == {0, 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_share": 0}, "mask_share must be more than 0 and at most 1, got 0"),
        ({"mask_share": 1.5}, "mask_share must be more than 0 and at most 1, got 1.5"),
        ({"strategy": "sentence"}, "Unknown strategy 'sentence'; choose one of token, word, span"),
        ({"seq_len": 0}, "seq_len must be at least 1, got 0"),
        ({"start_step": 999}, "start_step=999 is past the end"),
    ],
)
def test_bad_arguments_get_one_clear_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        batches(**options)


# What the model makes of it.


@pytest.fixture(scope="module")
def trained():
    """A model that knows a few sentences by heart, and its tokenizer."""
    texts = ["the cat sat on the mat", "the dog lay in the sun", "a bird sang to the moon"]
    tokenizer = Tokenizer.train(texts * 9, vocab_size=300, special_tokens=["<|mask|>"], progress=False)
    keras.utils.set_random_seed(0)
    config = {"num_layers": 1, "d_model": 32, "num_heads": 2, "dff": 64, "max_length": 16, "positions": "learned"}
    model = MaskedLM(TransformerConfig(tokenizer.vocab_size, **config))
    model.compile(keras.optimizers.Adam(0.003))
    dataset = masked_lm_dataset(texts * 8, tokenizer, 7, 24, epochs=200, packed=True, mask_share=0.3, progress=False)
    model.fit(dataset, verbose=0)
    return model, tokenizer


def test_fill_mask_names_what_was_hidden(trained):
    model, tokenizer = trained
    filled = kerasllm.fill_mask(model, tokenizer, "the<|mask|> sat on the <|mask|>", top_k=3)
    assert [options[0][0] for options in filled] == [" cat", " mat"]
    assert all(len(options) == 3 and options == sorted(options, key=lambda o: -o[1]) for options in filled)
    assert filled[0][0][1] > 0.5


def test_probabilities_are_the_models(trained):
    model, tokenizer = trained
    (options,) = kerasllm.fill_mask(model, tokenizer, "the <|mask|> sat", top_k=int(ordinary_ids(tokenizer).sum()))
    ids = [*tokenizer.encode("the"), tokenizer.mask_id, *tokenizer.encode(" sat")]
    logits = np.array(model(np.array([ids])))[0, 1].astype("float64")
    expected = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose([p for _, p in options], np.sort(expected[ordinary_ids(tokenizer)])[::-1], rtol=1e-4)
    assert options[0][0] == tokenizer.decode([int(np.argmax(expected))])


def test_fill_mask_refuses_what_it_cannot_do(trained):
    model, tokenizer = trained
    with pytest.raises(ValueError, match=re.escape("no mask to fill: write <|mask|> where a token is missing")):
        kerasllm.fill_mask(model, tokenizer, "the cat [MASK]")
    with pytest.raises(ValueError, match="has 17 tokens, and the model takes at most 16"):
        kerasllm.fill_mask(model, tokenizer, "<|mask|>" * 17)
    with pytest.raises(ValueError, match="`top_k` must be between 1 and"):
        kerasllm.fill_mask(model, tokenizer, "<|mask|>", top_k=0)
    causal = CausalLM(TransformerConfig(**SMALL))
    for ask in (kerasllm.fill_mask, pseudo_perplexity, masked_accuracy):
        with pytest.raises(TypeError, match=r"MaskedLM.*got CausalLM"):
            ask(causal, tokenizer, "the <|mask|>")


@pytest.mark.parametrize("context", [None, 5])
def test_pseudo_perplexity_hides_one_token_at_a_time(context):
    """Salazar et al. 2020, equations 1 and 3, one row at a time."""
    model, texts = scramble(small()), ["further", "speak, citizens! Be", ""]
    scores, nll, hits, labels = pseudo_perplexity(model, BPE, texts, context=context, batch_size=3), 0, 0, []
    for text in texts:
        ids, length = [*BPE.encode(text), BPE.end_id], context or 16
        for place in range(len(ids) - 1):
            begin = min(place // length * length, max(0, len(ids) - length))
            window = ids[begin : begin + length]
            window[place - begin] = BPE.mask_id
            logits = np.array(model(np.array([window])))[0, place - begin].astype("float64")
            nll += np.log(np.exp(logits).sum()) - logits[ids[place]]
            hits += int(logits.argmax()) == ids[place]
            labels.append(ids[place])
    assert scores.tokens == len(labels)
    assert scores.loss == pytest.approx(nll / len(labels), rel=1e-5)
    assert scores.perplexity == pytest.approx(np.exp(nll / len(labels)), rel=1e-4)
    assert scores.accuracy == pytest.approx(hits / len(labels))
    assert scores.baseline_accuracy == Counter(labels).most_common(1)[0][1] / len(labels)


def test_accuracy_stands_beside_the_best_constant_guess(trained):
    model, tokenizer = trained
    texts = ["the cat sat on the mat", "the dog lay in the sun"] * 5
    scores = masked_accuracy(model, tokenizer, texts, mask_share=0.3, seed=3, context=14, batch_size=4)
    dataset = masked_lm_dataset(texts, tokenizer, 14, 4, 3, mask_share=0.3, shuffle=False, progress=False)
    hits, labels = 0, []
    for inputs, targets, weight in dataset.as_numpy_iterator():
        inputs["token_ids"] = np.where(weight > 0, tokenizer.mask_id, inputs["token_ids"])
        guesses = np.array(model(inputs)).argmax(-1)
        hits += (guesses == targets)[weight > 0].sum()
        labels += targets[weight > 0].tolist()
    assert (scores.tokens, scores.accuracy) == (len(labels), hits / len(labels))
    assert scores.baseline_accuracy == Counter(labels).most_common(1)[0][1] / len(labels)
    assert scores.perplexity == pytest.approx(np.exp(scores.loss))
    assert f"{scores.accuracy:.2%}" in str(scores)
    with pytest.raises(ValueError, match="nothing to score"):
        pseudo_perplexity(model, tokenizer, "")
    with pytest.raises(TypeError, match="causal models, got a MaskedLM: `masked_accuracy`"):
        kerasllm.evaluation.perplexity(model, tokenizer, "the cat")


def test_a_model_that_has_diverged_is_not_measured(trained):
    model, tokenizer = trained
    weights = model.get_weights()
    model.set_weights([weight * np.nan for weight in weights])
    try:
        for ask in (kerasllm.fill_mask, pseudo_perplexity, masked_accuracy):
            with pytest.raises(ValueError, match="logits are not finite, so it has diverged"):
                ask(
                    model,
                    tokenizer,
                    "the cat sat on the <|mask|>" if ask is kerasllm.fill_mask else ["the cat sat on the mat"] * 9,
                )
    finally:
        model.set_weights(weights)


def test_the_two_functions_ask_alike():
    signatures = map(inspect.signature, (masked_lm_dataset, kerasllm.data.causal_lm_dataset))
    masked, causal = (list(signature.parameters.values()) for signature in signatures)
    assert masked[:8] == causal[:8] and [p for p in masked if p.name not in ("mask_share", "strategy")] == causal
