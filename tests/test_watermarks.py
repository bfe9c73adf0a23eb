"""Watermarks: which tokens they favour, by definitions in plain Python; that detectors find them, and nothing else."""

import dataclasses
import functools
import json
import math

import numpy as np
import pytest
from keras import ops

import kerasllm
from kerasllm import backend
from kerasllm.generation import GreenList, SynthID, generate_ids
from kerasllm.generation.torch_shuffle import in_front, permutation
from kerasllm.generation.watermarks import read_watermark
from kerasllm.models import CausalLM, TransformerConfig
from kerasllm.safety import calibrate, detect
from kerasllm.tokenizers import Tokenizer

TEXT = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ .,;:!?"
KEYS = (654, 400, 836, 123, 2**40 + 5, 443, 597, 160)


def soak(*values):
    return pytest.param(*values, marks=pytest.mark.soak)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([TEXT], kind="char", progress=False)


@pytest.fixture(scope="module")
def model(tokenizer):
    return CausalLM(
        TransformerConfig(tokenizer.vocab_size, num_layers=1, d_model=16, num_heads=1, dff=16, max_length=256)
    )


@pytest.mark.parametrize(("size", "count"), [(1000, 250), soak(700, 650), soak(3, 1), soak(2, 1)])
def test_a_shuffle_in_a_graph_is_that_of_swaps_one_by_one(size, count):
    seeds = np.array([0, 1, 77, 2**32 - 1], "uint32")
    found = backend.compile_function(lambda seeds: in_front(seeds, size, count), [], xla=False)(seeds)
    for seed, row in zip(seeds.tolist(), np.array(found), strict=True):
        assert np.flatnonzero(row).tolist() == sorted(permutation(seed, size)[:count])


shuffled = functools.cache(permutation)


def is_green(watermark, context, token, size):
    """The definition, with Python's whole numbers."""
    if watermark.seeding_scheme == "lefthash":
        seed = watermark.hashing_key * context[-1]
    else:
        table = shuffled(watermark.hashing_key, 1_000_003)
        window = [*context, token][-watermark.context_width :]
        products = [watermark.hashing_key * (table[each] + 1) * (table[token] + 1) for each in window]
        seed = min((product + 2**63) % 2**64 - 2**63 for product in products)
    return token in shuffled(seed % (2**64 - 1), size)[: int(size * watermark.greenlist_ratio)]


@pytest.mark.parametrize(
    "watermark",
    [
        GreenList(),
        soak(GreenList(greenlist_ratio=0.6, bias=-1.5, hashing_key=2**50 + 7, context_width=3)),
        soak(GreenList(seeding_scheme="selfhash", context_width=3, hashing_key=2**45 + 3)),
    ],
    ids=str,
)
def test_green_tokens_are_those_of_the_definition(watermark):
    V, P = 50, 2
    draw = np.random.default_rng(1)
    tokens, logits = draw.integers(0, V, (2, 6)).astype("int32"), draw.normal(size=(2, V)).astype("float32")
    state = watermark.start(ops.array(tokens), ops.array(np.broadcast_to(np.arange(6) < P, tokens.shape)), V)
    apply = backend.compile_function(watermark.apply_last, [], xla=False)
    for index in range(P, 4):
        found = np.array(apply(logits, state))
        for row in range(2):
            context, likeliest = tokens[row, :index].tolist(), np.argsort(-logits[row])[:40]
            for token in range(V):
                is_tried = watermark.seeding_scheme == "lefthash" or token in likeliest
                is_marked = index >= watermark.context_width and is_tried
                is_marked = is_marked and is_green(watermark, context, token, V)
                expected = logits[row, token] + (watermark.bias if is_marked else 0)
                assert found[row, token] == pytest.approx(expected, abs=1e-6), (index, row, token)
        state = watermark.advance(state, ops.array(tokens[:, index]))
    length = watermark.context_width - (watermark.seeding_scheme == "selfhash")
    row = tokens[0].tolist()
    green = sum(is_green(watermark, row[place - length : place], row[place], V) for place in range(length, 6))
    assert watermark.evidence([row], V)[0].share == pytest.approx(green / (6 - length))


def g_value(watermark, ngram, key):
    """The definition, with Python's whole numbers."""
    hashed = 1
    for number in (*ngram, key):
        hashed = (hashed + number) * 6364136223846793005 + 1
    numbers = np.random.RandomState(watermark.sampling_table_seed)._bit_generator.random_raw(2**16)
    return int(numbers[hashed % watermark.sampling_table_size]) % 2


def test_tournaments_are_those_of_the_definition():
    V, n = 12, 3
    watermark = SynthID(KEYS[:5], ngram_len=n, context_history_size=4)
    drawn = [5, 7, 5, 7, 2, 5, 7, 1, 1, 1, 1]
    tokens = np.zeros((1, 16), "int32")
    state = watermark.start(ops.array(tokens), ops.array(tokens == 1), V)
    logits = np.random.default_rng(0).normal(size=(1, V)).astype("float32")
    text, contexts = [0, 0], []
    for token in drawn:
        context = tuple(text[-2:])
        likelihood = np.exp(logits[0]) / np.exp(logits[0]).sum()
        for key in watermark.keys if context not in contexts[-4:] else ():
            wins = np.array([g_value(watermark, (*context, each), key) for each in range(V)])
            likelihood *= 1 + wins - (wins * likelihood).sum()
        found = np.array(ops.softmax(watermark.apply_last(ops.array(logits), state)))[0]
        np.testing.assert_allclose(found, likelihood, rtol=2e-5, err_msg=str(text))
        state = watermark.advance(state, ops.array([token], "int32"))
        contexts.append(context)
        text.append(token)
    values, are_repeated = watermark.g_values(drawn)
    expected = [[g_value(watermark, drawn[i : i + n], key) for key in watermark.keys] for i in range(len(drawn) - 2)]
    np.testing.assert_array_equal(values, expected)
    assert np.flatnonzero(are_repeated).tolist() == [2, 5, 8]  # (5, 7) again, and again; (1, 1) again


def test_the_first_tokens_are_left_alone_where_asked():
    watermark = SynthID(KEYS, ngram_len=3, skip_first_ngram_calls=True)
    logits = ops.array(np.random.default_rng(0).normal(size=(1, 20)).astype("float32"))
    state = watermark.start(ops.zeros((1, 8), "int32"), ops.zeros((1, 8), "bool"), 20)
    changed = []
    for token in (3, 4, 5):
        changed.append(bool(np.abs(np.array(watermark.apply_last(logits, state) - logits)).max() > 1e-3))
        state = watermark.advance(state, ops.array([token], "int32"))
    assert changed == [False, False, True]


@pytest.mark.soak
@pytest.mark.parametrize("watermark", [soak(GreenList()), SynthID(KEYS)], ids=["green", "tournament"])
def test_a_mark_is_found_by_its_key_and_where_it_is(watermark, model, tokenizer):
    prompts, rules = [[1, 2, 3], [4], [1, 2, 3]], [[watermark], [], [watermark]]
    options = {"temperature": 1.0, "seed": 1, "suppress_tokens": [0, 1, 2]}
    marked, _, _ = drawn = generate_ids(model, prompts, 100, rules=rules, **options)
    found = detect(drawn, tokenizer, watermark)
    assert [each.is_watermarked for each in found] == [True, False, True]
    assert found[0].z_score > 4 and found[0].p_value == pytest.approx(math.erfc(found[0].z_score / 2**0.5) / 2)
    assert detect(tokenizer.decode(marked), tokenizer, watermark) == found[0] == detect(marked, tokenizer, watermark)
    other = {"hashing_key": 99} if isinstance(watermark, GreenList) else {"keys": [key + 1 for key in KEYS]}
    assert not detect(marked, tokenizer, dataclasses.replace(watermark, **other)).is_watermarked
    by_name = kerasllm.generate(model, tokenizer, prompts, 100, watermark=watermark, **options)
    assert by_name[0] == tokenizer.decode(marked)


def test_a_threshold_is_as_strict_as_asked(tokenizer):
    draw = np.random.default_rng(0)
    texts = [draw.integers(5, 50, 40).tolist() for _ in range(60)]
    watermark = SynthID(KEYS)
    threshold = calibrate(texts, tokenizer, watermark, false_positive_rate=0.05)
    assert sum(each.is_watermarked for each in detect(texts, tokenizer, watermark, threshold=threshold)) == 3
    with pytest.raises(ValueError, match=r"A rate of 0\.01 takes at least 100 texts to tell, got 60"):
        calibrate(texts, tokenizer, watermark)


def test_repetitions_count_once_unless_asked(tokenizer):
    text = [3, 4] * 30
    assert detect(text, tokenizer, GreenList()).tokens == 2
    assert detect(text, tokenizer, GreenList(), repeated=True).tokens == 59
    assert detect(text, tokenizer, SynthID(KEYS)).tokens == 2
    assert detect([], tokenizer, SynthID(KEYS)) == [] and detect("", tokenizer, SynthID(KEYS)).tokens == 0


def test_settings_of_transformers_are_read():
    config = {"ngram_len": 4, "keys": [1, 2], "context_history_size": 9, "sampling_table_seed": 1}
    config |= {"sampling_table_size": 256, "skip_first_ngram_calls": True, "debug_mode": False}
    assert read_watermark(config) == SynthID((1, 2), 4, 9, 1, 256, True)
    assert read_watermark({"greenlist_ratio": 0.5, "bias": 1.0}) == GreenList(0.5, 1.0)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: GreenList(greenlist_ratio=1.0), ValueError, "`greenlist_ratio` must be between 0 and 1, got 1.0"),
        (lambda: GreenList(seeding_scheme="right"), ValueError, "`seeding_scheme` is 'lefthash' or 'selfhash', got"),
        (lambda: GreenList(hashing_key=0), ValueError, "`hashing_key` must be at least 1, got 0"),
        (lambda: SynthID([]), ValueError, "`keys` must have at least one key"),
        (lambda: SynthID(KEYS, sampling_table_size=1000), ValueError, "must be a power of two of at most"),
        (lambda: read_watermark("green"), TypeError, "`watermark` is a GreenList or a SynthID, or the settings of one"),
        (lambda: read_watermark({"ratio": 1}), ValueError, "GreenList has no setting ratio; it has greenlist_ratio"),
        (lambda: read_watermark({"keys": [1], "debug_mode": True}), ValueError, "`debug_mode` replaces the model's"),
        (lambda: GreenList().fitted(64, 60), ValueError, r"64 ids and its tokenizer 60: .* GreenList\(vocab_size=64\)"),
        (lambda: GreenList().evidence([[1, 2]], 3), ValueError, "Of 3 tokens, a `greenlist_ratio` of 0.25 makes none"),
    ],
)
def test_what_is_no_watermark_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_the_command_line_detects(tokenizer, tmp_path, capsys):
    from kerasllm.cli import main

    tokenizer.save(tmp_path)
    watermark = SynthID(KEYS)
    (tmp_path / "marks.json").write_text(json.dumps(dataclasses.asdict(watermark)))
    lines = (json.dumps({"text": TEXT[place:]}) + "\n" for place in range(20))
    (tmp_path / "human.jsonl").write_text("".join(lines))
    given = ["detect", "--model", str(tmp_path), "--watermark", str(tmp_path / "marks.json"), "--text", TEXT]
    assert main(given) == 0
    found = detect(TEXT, tokenizer, watermark)
    assert capsys.readouterr().out == f"no\t{found.z_score:.2f}\t{found.p_value:.1e}\t{TEXT}\n"
    assert main([*given, "--json", "--calibrate", str(tmp_path / "human.jsonl"), "--rate", "0.5"]) == 0
    assert json.loads(capsys.readouterr().out)["threshold"] != 3
    assert main([*given, "--rate", "0.5"]) == 2 and "give that too" in capsys.readouterr().err
