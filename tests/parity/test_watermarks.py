"""Watermarks, guidance and biases beside transformers: the same numbers, and each side finds what the other wrote."""

import functools

import numpy as np
import pytest
from keras import ops

import kerasllm
from kerasllm import backend
from kerasllm.generation import generate_ids
from kerasllm.generation.sequence_bias import SequenceBias
from kerasllm.generation.watermarks import read_watermark
from kerasllm.safety import detect
from kerasllm.tokenizers import Tokenizer

torch = pytest.importorskip("torch", reason="torch is not installed: pip install kerasllm[parity]")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install kerasllm[parity]")
pytestmark = pytest.mark.parity

V = 200
KEYS = [654, 400, 836, 123, 340, 443, 597, 160, 57, 29, 590, 639, 13, 715, 468, 990, 966, 226, 324, 585]
green = transformers.WatermarkingConfig
tournament = functools.partial(transformers.SynthIDTextWatermarkingConfig, keys=KEYS)
CONFIGS = [
    green(),
    green(greenlist_ratio=0.6, bias=1.5, hashing_key=2**50 + 7, context_width=3),
    green(seeding_scheme="selfhash", bias=2.5),
    green(seeding_scheme="selfhash", context_width=4, hashing_key=2**45 + 3),
    tournament(ngram_len=5),
    tournament(ngram_len=3, sampling_table_seed=7, context_history_size=3, skip_first_ngram_calls=True),
]


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = Tokenizer.train(["".join(map(chr, range(0x4E00, 0x4E00 + V - 4)))], kind="char", progress=False)
    tokenizer.end_ids = []  # which a detector would look no further than
    return tokenizer


@pytest.fixture(scope="module")
def models(tokenizer, tmp_path_factory):
    """The same model there and here, of random weights."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=V, n_layer=1, n_embd=32, n_head=2, n_positions=512, bos_token_id=0, eos_token_id=None
    )
    theirs = transformers.GPT2LMHeadModel(config).eval()
    folder = tmp_path_factory.mktemp("model")
    theirs.save_pretrained(folder)
    tokenizer.save(folder)
    return theirs, kerasllm.huggingface.load(folder)[0]


def test_the_vocabulary_is_the_models(tokenizer):
    assert tokenizer.vocab_size == V


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_logits_are_changed_as_there(config):
    P, draw = 4, np.random.default_rng(0)
    ids = draw.integers(0, V, (3, 12))
    ids[:, 8:] = ids[:, 4:8]  # contexts that are repeated
    rule, there = read_watermark(config), config.construct_processor(V, "cpu")
    state = rule.start(ops.array(ids, "int32"), ops.array(np.broadcast_to(np.arange(12) < P, ids.shape)), V)
    apply = backend.compile_function(rule.apply_last, [], xla=False)
    for index in range(P, 12):
        logits = 3 * draw.normal(size=(3, V)).astype("float32")
        theirs = there(torch.tensor(ids[:, :index]), torch.tensor(logits)).numpy()
        ours = np.array(apply(logits, state))
        if isinstance(config, transformers.WatermarkingConfig):
            np.testing.assert_array_equal(ours, theirs)
        else:
            likelihoods = [torch.softmax(torch.tensor(each), -1).numpy() for each in (ours, theirs)]
            np.testing.assert_allclose(*likelihoods, rtol=1e-4, atol=1e-7)
        state = rule.advance(state, ops.array(ids[:, index], "int32"))


@pytest.mark.parametrize("config", CONFIGS[:4], ids=str)
@pytest.mark.parametrize("repeated", [False, True])
def test_green_tokens_are_counted_as_there(config, repeated, models, tokenizer):
    ids = np.random.default_rng(0).integers(1, 30, (4, 60))
    detector = transformers.WatermarkDetector(models[0].config, "cpu", config, ignore_repeated_ngrams=not repeated)
    theirs = detector(torch.tensor(ids), return_dict=True)
    for row, ours in enumerate(detect(ids.tolist(), tokenizer, config, repeated=repeated)):
        assert ours.tokens == theirs.num_tokens_scored[row]
        assert round(ours.share * ours.tokens) == theirs.num_green_tokens[row]
        assert ours.z_score == pytest.approx(theirs.z_score[row]) and ours.is_watermarked == theirs.prediction[row]
        assert ours.p_value == pytest.approx(theirs.p_value[row], rel=1e-6)


@pytest.mark.parametrize("config", CONFIGS[4:], ids=str)
def test_g_values_are_those_there(config):
    ids = np.random.default_rng(0).integers(0, 5, (3, 80))
    there = config.construct_processor(V, "cpu")
    values = there.compute_g_values(torch.tensor(ids)).numpy()
    counts = there.compute_context_repetition_mask(torch.tensor(ids)).numpy()
    for row in range(3):
        ours, are_repeated = read_watermark(config).g_values(ids[row])
        np.testing.assert_array_equal(ours, values[row])
        np.testing.assert_array_equal(are_repeated, ~counts[row])
    assert 0 < counts.mean() < 1


@pytest.mark.parametrize(
    "config", [CONFIGS[0], green(seeding_scheme="selfhash", bias=8.0), CONFIGS[4]], ids=["left", "self", "tournament"]
)
def test_each_side_finds_what_the_other_wrote(config, models, tokenizer):
    theirs, ours = models
    given = torch.tensor([[5, 6, 7]] * 2)
    torch.manual_seed(0)
    sampling = {"do_sample": True, "top_k": 0, "max_new_tokens": 150, "pad_token_id": 0}
    written_there = theirs.generate(given, watermarking_config=config, **sampling)[:, 3:]
    plain_there = theirs.generate(given, **sampling)[:, 3:]
    for found in detect(written_there.tolist(), tokenizer, config):
        assert found.z_score > 3
    for found in detect(plain_there.tolist(), tokenizer, config):
        assert found.z_score < 3
    rules = [read_watermark(config)]
    written_here = generate_ids(ours, [[5, 6, 7]] * 2, 150, temperature=1.0, seed=1, rules=rules)
    written_here = torch.tensor(written_here)
    if isinstance(config, transformers.WatermarkingConfig):
        detector = transformers.WatermarkDetector(theirs.config, "cpu", config, ignore_repeated_ngrams=True)
        assert detector(written_here).all() and not detector(plain_there).any()
        return
    posterior = trained_detector(config)
    assert (posterior(written_here) > 0.9).all() and (posterior(plain_there) < 0.5).all()


def trained_detector(config):
    """transformers' own detector of SynthID, a Bayesian model, taught by g-values of its own processor."""
    there = config.construct_processor(V, "cpu")
    torch.manual_seed(0)

    def drawn(marked, size, length=60):
        ids = torch.zeros((size, 0), dtype=torch.long)
        processor = config.construct_processor(V, "cpu")
        for _ in range(length):
            logits = torch.zeros((size, V))
            logits = processor(ids if ids.shape[1] else torch.zeros((size, 1), dtype=torch.long), logits)
            logits = logits if marked else torch.zeros((size, V))
            ids = torch.cat([ids, torch.multinomial(logits.softmax(-1), 1)], dim=1)
        return ids

    def evidence(ids):
        return there.compute_g_values(ids), there.compute_context_repetition_mask(ids)

    (marked, counts), (plain, plain_counts) = evidence(drawn(True, 64)), evidence(drawn(False, 64))
    values, counts = torch.cat([marked, plain]), torch.cat([counts, plain_counts])
    labels = torch.cat([torch.ones(64), torch.zeros(64)])
    module = transformers.BayesianDetectorModel(transformers.BayesianDetectorConfig(watermarking_depth=len(KEYS)))
    optimizer = torch.optim.Adam(module.parameters(), 3e-2)
    for _ in range(60):
        optimizer.zero_grad()
        module(values, counts, labels)[1].backward()
        optimizer.step()
    tokenizer = type("Tokenizer", (), {"eos_token_id": -1})()
    detector = transformers.SynthIDTextWatermarkDetector(module, there, tokenizer)
    return lambda ids: torch.as_tensor(detector(ids)[0]).detach()


def test_guidance_is_that_there():
    from kerasllm.generation.contrast import ContrastedStepper, Guidance

    draw = np.random.default_rng(0)
    ours, theirs = (draw.normal(size=(2, V)).astype("float32") for _ in range(2))
    output = transformers.modeling_outputs.CausalLMOutputWithPast(logits=torch.tensor(theirs)[:, None])
    there = transformers.UnbatchedClassifierFreeGuidanceLogitsProcessor(1.7, lambda *args, **options: output)
    expected = there(torch.zeros((2, 3), dtype=torch.long), torch.tensor(ours)).numpy()
    stepper = type("Stepper", (), {"variables": (), "uses_xla": False, "in_runs": False})
    found = ContrastedStepper(stepper, stepper, Guidance.mix)._mixed(ours, theirs, np.array([1.7], "float32"))
    np.testing.assert_allclose(np.array(found), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("forbidden", [False, True])
def test_biases_are_those_there(forbidden):
    draw, sequences = np.random.default_rng(0), [(7,), (3, 4), (3, 3, 5), (1, 5), (2,)]
    if forbidden:
        biases = {ids: -float("inf") for ids in sequences}
        there = transformers.NoBadWordsLogitsProcessor([list(ids) for ids in sequences], eos_token_id=0)
    else:
        biases = {ids: float(bias) for ids, bias in zip(sequences, draw.normal(size=5), strict=True)}
        there = transformers.SequenceBiasLogitsProcessor([[list(ids), bias] for ids, bias in biases.items()])
    ids = draw.integers(1, 6, (8, 9))
    rule = SequenceBias(tuple(biases.items()))
    state = rule.start(ops.array(ids, "int32"), ops.array(np.broadcast_to(np.arange(9) < 2, ids.shape)), V)
    for index in range(2, 9):
        logits = draw.normal(size=(8, V)).astype("float32")
        expected = there(torch.tensor(ids[:, :index]), torch.tensor(logits)).numpy()
        np.testing.assert_array_equal(np.array(rule.apply(logits, state)), expected)
        state = rule.advance(state, ops.array(ids[:, index], "int32"))
