"""Sequence to sequence: the model against NumPy, batches of like length, and beam search against an exhaustive one."""

import dataclasses
import itertools
import json

import keras
import numpy as np
import oracles
import pytest
from keras import ops
from oracles import scramble, weights_of

import kerasllm
from kerasllm.data import seq2seq_dataset
from kerasllm.generation.beam_search import blank_targets, search_targets, start_rule
from kerasllm.generation.settings import BeamSettings
from kerasllm.generation.translation import Search
from kerasllm.models import CausalLM, Seq2SeqLM, TransformerConfig
from kerasllm.models.presets import BART, T5, TRANSFORMER
from kerasllm.tokenizers import Tokenizer
from kerasllm.tokenizers.sides import Sides

SIZES = {"vocab_size": 17, "num_layers": 2, "d_model": 16, "num_heads": 4, "dff": 20, "max_length": 48}
VARIANTS = {
    "as it comes": {},
    "the original Transformer": {**TRANSFORMER, **SIZES, "dropout": 0.0},
    "BART": {**BART, **SIZES, "dropout": 0.0},
    "T5": {**T5, **SIZES, "dropout": 0.0},
    "two vocabularies, two depths": {"source_vocab_size": 13, "num_encoder_layers": 1, "tie_embeddings": False},
    "a bias of the logits": {"output_bias": True, "positions": "fairseq_sinusoidal"},
    "grouped, normed heads": {"num_kv_heads": 2, "qk_norm": True},
}
PAIRS = [
    ("a dog runs", "ein Hund läuft"),
    ("a cat", "eine Katze"),
    ("the dog sleeps", "der Hund schläft"),
    ("the old man sees a dog", "der alte Mann sieht einen Hund"),
    ("two men talk", "zwei Männer reden"),
] * 5


def small(**options):
    return Seq2SeqLM(TransformerConfig(**{**SIZES, **options}))


@pytest.fixture(params=VARIANTS)
def model(request):
    return scramble(small(**VARIANTS[request.param]))


def example(seed=0):
    draw = np.random.default_rng(seed)
    mask = np.array([[True] * 7, [True] * 4 + [False] * 3])
    return {"source_ids": draw.integers(0, 13, (2, 7)), "target_ids": draw.integers(0, 17, (2, 5)), "source_mask": mask}


# The model.


def test_logits_are_those_of_numpy(model):
    inputs = example()
    expected = oracles.seq2seq_lm(weights_of(model), model.config, **inputs)
    np.testing.assert_allclose(model(inputs), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_parameters_follow_from_the_config(model):
    assert model.count_params() == model.config.num_parameters()


def test_a_token_at_a_time_gives_the_same_logits(model):
    inputs = example()
    encoded = model.encode(inputs["source_ids"], inputs["source_mask"])
    cache, logits = model.init_cache(encoded, 5), []
    for i in range(5):
        ids = inputs["target_ids"][:, i : i + 1]
        step, cache = model.decode(ids, None, inputs["source_mask"], cache=cache, cache_index=i)
        logits.append(step)
    np.testing.assert_allclose(np.concatenate(logits, axis=1), model(inputs), rtol=1e-4, atol=2e-4)


def test_what_stands_where_the_mask_is_false_changes_nothing(model):
    inputs = example()
    changed = {**inputs, "source_ids": np.where(inputs["source_mask"], inputs["source_ids"], 5)}
    assert not np.array_equal(changed["source_ids"], inputs["source_ids"])
    np.testing.assert_array_equal(model(inputs), model(changed))


def test_attention_scores_are_probabilities_over_target_and_source(model):
    inputs = example()
    logits, scores = model(inputs, return_attention_scores=True)
    np.testing.assert_allclose(logits, model(inputs), rtol=1e-5, atol=1e-5)
    assert len(scores) == 2
    for own, over_source in scores:
        assert (own.shape, over_source.shape) == ((2, 4, 5, 5), (2, 4, 5, 7))
        np.testing.assert_allclose(ops.sum(over_source, axis=-1), 1, rtol=1e-5)
        assert np.array(own)[0, 0, 0, 1:].max() == np.array(over_source)[1, :, :, 4:].max() == 0


@pytest.mark.soak
def test_it_is_saved_and_loaded_and_goes_on_training(tmp_path):
    model = small(**{**VARIANTS["two vocabularies, two depths"], "num_layers": 1})
    inputs, labels = example(), example()["target_ids"]
    model.compile(keras.optimizers.SGD(0.5, momentum=0.9), run_eagerly=True)
    model.fit(inputs, labels, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(inputs), model(inputs))
    losses = [trained.fit(inputs, labels, verbose=0).history["loss"] for trained in (loaded, model)]
    assert losses[0] == losses[1]
    for found, expected in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)


# Batches.


def tokenizer_of(side=None, **options):
    texts = itertools.chain(*PAIRS) if side is None else [pair[side] for pair in PAIRS]
    return Tokenizer.train(texts, kind="char", progress=False, **options)


def rows_of(dataset):
    """(source ids, target ids, labels) of every pair, without padding, by batch."""
    batches = []
    for inputs, labels, weight in dataset:
        arrays = zip(inputs["source_ids"], inputs["source_mask"], inputs["target_ids"], labels, weight, strict=True)
        batches.append(
            [
                (source[mask].numpy().tolist(), target[w > 0].numpy().tolist(), label[w > 0].numpy().tolist())
                for source, mask, target, label, w in arrays
            ]
        )
    return batches


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_pair_comes_once_with_its_start_and_end(shuffle):
    tokenizer = tokenizer_of()
    found = sorted(sum(rows_of(seq2seq_dataset(PAIRS, tokenizer, batch_tokens=64, shuffle=shuffle)), []))  # noqa: RUF017
    start, end = tokenizer.start_id, tokenizer.end_id
    encode = tokenizer.encode
    expected = [([*encode(s), end], [start, *encode(t)], [*encode(t), end]) for s, t in PAIRS]
    assert found == sorted(expected)


def test_a_batch_holds_no_more_tokens_than_it_may_and_lengths_are_alike():
    for inputs, labels, weight in seq2seq_dataset(PAIRS, tokenizer_of(), batch_tokens=100):
        rows, width = inputs["source_ids"].shape
        assert rows * max(width, labels.shape[1]) <= 100
        assert width % 4 == labels.shape[1] % 4 == 0
        longest = np.maximum(np.sum(inputs["source_mask"], 1), np.sum(weight, 1))
        assert longest.max() - longest.min() < 4


def test_epochs_differ_and_a_resumed_run_sees_what_is_left():
    tokenizer = tokenizer_of()
    whole = rows_of(seq2seq_dataset(PAIRS, tokenizer, batch_tokens=64, epochs=2, seed=3))
    half = len(whole) // 2
    assert whole[:half] != whole[half:]
    assert sorted(sum(whole[:half], [])) == sorted(sum(whole[half:], []))  # noqa: RUF017
    assert (
        rows_of(seq2seq_dataset(PAIRS, tokenizer, batch_tokens=64, epochs=2, seed=3, start_step=half + 1))
        == (whole[half + 1 :])
    )


def test_pairs_too_long_are_left_out_and_counted():
    long = ("a dog " * 20, "ein Hund")
    with pytest.warns(UserWarning, match="1 of 26 pairs are longer than max_length=64 tokens"):
        dataset = seq2seq_dataset([*PAIRS, long], tokenizer_of(), max_length=64)
    assert len(sum(rows_of(dataset), [])) == 25  # noqa: RUF017
    with pytest.raises(ValueError, match="no pair to learn from: 1 pairs were given, and 1 of them are longer"):
        seq2seq_dataset([long], tokenizer_of(), max_length=64)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda t: seq2seq_dataset([("a",)], t), TypeError, "A pair of texts"),
        (
            lambda t: seq2seq_dataset([("a dog", "一只狗")], t),
            ValueError,
            "60.0% of the tokens of the targets are unknown",
        ),
        (lambda t: CausalLM(small().config), ValueError, "A CausalLM has no encoder, got num_encoder_layers=2"),
        (lambda t: kerasllm.translate(diverged(), t, "a"), ValueError, "it has diverged"),
        (lambda t: seq2seq_dataset(PAIRS, t, batch_tokens=0), ValueError, "batch_tokens must be at least 1, got 0"),
        (lambda t: seq2seq_dataset(PAIRS, t, start_step=99), ValueError, "start_step=99 is past the end"),
        (lambda t: seq2seq_dataset(PAIRS, "bpe"), TypeError, "A tokenizer is a kerasllm.tokenizers.Tokenizer"),
        (lambda t: kerasllm.translate(small(), t, ["a"] * 2 + [3]), TypeError, "text 2 is of type int"),
        (lambda t: kerasllm.translate(small(), t, "a", num_best=5), ValueError, "at most `num_beams` (4), got 5"),
        (lambda t: kerasllm.translate(small(), t, "a", 0), ValueError, "`num_beams` must be at least 1, got 0"),
        (lambda t: kerasllm.translate(small(), t, ["a", "a" * 50]), ValueError, "Text 1 has 51 tokens"),
        (lambda t: kerasllm.translate(causal(), t, "a"), TypeError, "needs a Seq2SeqLM, got CausalLM"),
        (lambda t: kerasllm.generate(small(), t, "a"), TypeError, "`translate` is for a Seq2SeqLM"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call, error, message):
    with pytest.raises(error) as caught:
        call(tokenizer_of())
    assert message in str(caught.value)


def diverged():
    model = small()
    model.weights[0].assign(model.weights[0] * np.nan)
    return model


def causal():
    return CausalLM(TransformerConfig(17, 1, 16, 4, 20))


# Beam search.


@pytest.fixture(scope="module")
def translator():
    """A model that has learned nothing, with weights that prefer some tokens clearly, and its tokenizer."""
    tokenizer = Tokenizer.train(["abcdefg"], kind="char", progress=False)
    return scramble(small(vocab_size=tokenizer.vocab_size), seed=5), tokenizer


def log_probabilities(model, source, target):
    """Of every next token, (T, V), by a plain call."""
    inputs = {"source_ids": np.array([source]), "target_ids": np.array([target])}
    return np.array(ops.log_softmax(ops.cast(model(inputs)[0], "float32")))


def every_target(model, sides, source, room):
    """All targets of up to `room` tokens that end, or are as long as that, with their mean log-probability."""
    found, waiting = {}, {(): 0.0}
    while waiting:  # all of one length
        targets = np.array([(sides.start_id, *target) for target in waiting])
        logits = model({"source_ids": np.tile(source, (len(targets), 1)), "target_ids": targets})[:, -1]
        following = np.array(ops.log_softmax(ops.cast(logits, "float32")))
        longer = {}
        for (target, total), row in zip(waiting.items(), following, strict=True):
            for token in set(range(len(row))) - {sides.start_id, sides.pad_id}:
                whole, score = (*target, token), total + row[token]
                if token == sides.end_id or len(whole) == room:
                    found[whole] = score / len(whole)
                else:
                    longer[whole] = score
        waiting = longer
    return sorted(found.items(), key=lambda item: -item[1])


def test_enough_beams_find_the_best_of_all_targets(translator):
    model, tokenizer = translator
    sides = Sides.of(tokenizer)
    source = [*tokenizer.encode("abc"), tokenizer.end_id]
    expected = every_target(model, sides, source, room=3)
    ids, limits = np.array([source]), ops.convert_to_tensor(np.array([3], "int32"))
    _, settings, rule = Search.of(sides, model, BeamSettings())
    targets = blank_targets(1, len(expected), 3, settings)
    state = start_rule(rule, targets, model.config.vocab_size)
    mask = np.ones_like(ids, bool)
    tokens, scores = search_targets(model, ids, mask, targets, limits, settings, state, rule, False)
    found = [
        (tuple(row[: row.index(sides.end_id) + 1]) if sides.end_id in row else tuple(row), score)
        for row, score in zip(np.array(tokens)[0].tolist(), np.array(scores)[0].tolist(), strict=True)
    ]
    assert [target for target, _ in found[:20]] == [target for target, _ in expected[:20]]
    np.testing.assert_allclose([s for _, s in found], [s for _, s in expected], rtol=1e-4)


def test_one_beam_is_greedy_and_scores_are_those_of_plain_calls(translator):
    model, tokenizer = translator
    for text in ["a", "gfe dcb", "abcabc"]:
        target, total = greedy_target(model, tokenizer, text, [tokenizer.start_id])
        ((found, score),) = kerasllm.translate(model, tokenizer, text, 1, num_best=1, max_new_tokens=9)
        assert found == tokenizer.decode(target[1:])
        assert score == pytest.approx(total / (len(target) - 1), rel=1e-4)


def greedy_target(model, tokenizer, text, target):
    """A target of up to 9 tokens that goes on from its beginning, and its log-probability."""
    source, total = [*tokenizer.encode(text), tokenizer.end_id], 0.0
    while len(target) < 10 and (len(target) == 1 or target[-1] != tokenizer.end_id):
        following = log_probabilities(model, source, target)[-1]
        following[list({tokenizer.pad_id, target[0]} - {tokenizer.end_id})] = -np.inf
        target = [*target, int(following.argmax())]
        total += following.max()
    return target, total


@pytest.mark.soak
def test_targets_begin_as_the_config_says_or_with_a_language(translator):
    model, tokenizer = translator
    f, d = map(tokenizer.engine.token_to_id, "fd")
    end, start = tokenizer.end_id, tokenizer.start_id

    def translated(begin=(None, None), **options):
        config = dataclasses.replace(model.config, decoder_start_id=begin[0], forced_bos_id=begin[1])
        other = Seq2SeqLM(config)
        other.set_weights(model.get_weights())
        return kerasllm.translate(other, tokenizer, "abc", 1, max_new_tokens=9, **options)

    def greedy(*begin):
        return tokenizer.decode(greedy_target(model, tokenizer, "abc", list(begin))[0][1:])

    assert translated((end, d)) == greedy(end, d)
    assert translated(target_language="d") == greedy(start, d)
    assert translated((end, f), target_language="d") == greedy(end, d)
    assert translated((f, None), target_language="d") == greedy(d)
    assert greedy(end, d)[0] == "d" != greedy(end)[:1]
    dataset = seq2seq_dataset([("abc", "ab")], tokenizer, decoder_start_id=end, forced_bos_id=f)
    inputs, labels, _ = next(iter(dataset))
    ids = tokenizer.encode("ab")
    assert inputs["target_ids"][0].numpy().tolist()[:4] == [end, f, *ids]
    assert labels[0].numpy().tolist()[:4] == [f, *ids, end]
    with pytest.raises(ValueError, match="has no token 'deu_Latn' for a language to write"):
        translated(target_language="deu_Latn")


def test_the_best_come_first_and_none_twice_whatever_stands_beside(translator):
    model, tokenizer = translator
    texts = ["abc", "", "g", "abcdefg abcdefg", "  ", "fed"]
    best = kerasllm.translate(model, tokenizer, texts, num_best=4)
    for text, found in zip(texts, best, strict=True):
        scores = [score for _, score in found]
        assert scores == sorted(scores, reverse=True)
        assert len({spelled for spelled, _ in found}) == len(found)
        alone = kerasllm.translate(model, tokenizer, text, num_best=4)
        assert [spelled for spelled, _ in alone] == [spelled for spelled, _ in found]
    assert kerasllm.translate(model, tokenizer, texts) == [found[0].text for found in best]
    assert best[1] == best[4] == [("", 0.0)]


@pytest.mark.soak
def test_a_model_learns_to_translate_and_its_folder_keeps_both_tokenizers(tmp_path):
    tokenizers = tokenizer_of(0), tokenizer_of(1)
    model = small(
        vocab_size=tokenizers[1].vocab_size,
        source_vocab_size=tokenizers[0].vocab_size,
        d_model=64,
        dff=128,
        num_layers=1,
    )
    model.compile(keras.optimizers.Adam(3e-3))
    model.fit(seq2seq_dataset(PAIRS, tokenizers, batch_tokens=256, epochs=60), verbose=0)
    sources, targets = (list(side) for side in zip(*PAIRS[:5], strict=True))
    assert kerasllm.translate(model, tokenizers, sources) == targets
    kerasllm.save(model, tokenizers, tmp_path / "run")
    loaded, pair = kerasllm.load(tmp_path / "run")
    assert kerasllm.translate(loaded, pair, sources) == targets
    (tmp_path / "run" / "source" / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no source/tokenizer\.json"):
        kerasllm.load(tmp_path / "run")


@pytest.mark.soak
def test_other_backends_translate_alike(translator, run_python, tmp_path, other_backend):
    model, tokenizer = translator
    kerasllm.save(model, tokenizer, tmp_path / "run")
    code = f"""
        import json
        import kerasllm
        model, tokenizer = kerasllm.load({str(tmp_path / "run")!r})
        print("ANSWER", json.dumps(kerasllm.translate(model, tokenizer, ["abc", "gf e"], num_best=2)))
    """
    written = run_python(code, backend=other_backend, hide=["tensorflow"])
    expected = kerasllm.translate(model, tokenizer, ["abc", "gf e"], num_best=2)
    for found, wanted in zip(json.loads(written.partition("ANSWER")[2]), expected, strict=True):
        assert [text for text, _ in found] == [text for text, _ in wanted]
        np.testing.assert_allclose([score for _, score in found], [score for _, score in wanted], rtol=1e-4)
