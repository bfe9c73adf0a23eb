"""Generation: the compiled loop with a cache draws what calling the model on the whole text draws."""

import functools

import keras
import keras_nlp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

import kerasllm
from kerasllm import adapters, backend
from kerasllm.generation import Sampler, generate_ids, loop, read_prefix, samplers, stepping, tiers
from kerasllm.generation.buffers import buffer_lengths
from kerasllm.generation.stepping import CachedStepper, PlainStepper, get_stepper
from kerasllm.layers import TransformerBlock, likeness, taps
from kerasllm.models import CausalLM, TransformerConfig
from kerasllm.tokenizers import Tokenizer

TEXT = "to be or not to be, that is the question: whether it is nobler to suffer"
V = 40
PROMPTS = [[3, 4, 5], [6] * 11, [7]]


def scattered(model, scale=0.3):
    """Weights far from their initial values, so that a wrong step shows."""
    generator = np.random.default_rng(1)
    for weight in model.trainable_variables:
        weight.assign(weight + scale * generator.standard_normal(weight.shape))
    return model


def causal_lm(**options):
    config = TransformerConfig(V, num_layers=2, d_model=32, num_heads=4, dff=64, max_length=64, **options)
    return scattered(CausalLM(config))


@functools.cache
def shared():
    """One for the tests that need any, and what they compile."""
    return causal_lm()


def sequential(mask_zero=False):
    model = keras.Sequential(
        [
            keras.layers.Embedding(V, 24, mask_zero=mask_zero),
            kerasllm.layers.Transformer(2, 32, 4, 64),
            keras.layers.Dense(V),
        ]
    )
    model.build((None, None))
    return scattered(model)


def functional(length=None):
    ids = keras.Input((length,), dtype="int32")
    x = keras.layers.Embedding(V, 24)(ids)
    x = kerasllm.layers.TransformerBlock(24, 4, 48)(x)
    return scattered(keras.Model(ids, keras.layers.Dense(V)(x)))


def greedy_by_hand(model, prompt, steps):
    """The definition: call the model on the text so far, take the likeliest token, append it."""
    text = list(prompt)
    for _ in range(steps):
        logits = ops.convert_to_numpy(model(np.array([text])))[0, -1]
        text.append(int(logits.argmax()))
    return text[len(prompt) :]


class Spy:
    """A method of blocks that keeps the number of tokens of each call."""

    def __init__(self, call):
        self.lengths = []
        self._call = call

    def __get__(self, block, _):
        def call(x, *args, **kwargs):
            self.lengths.append(x.shape[1])
            return self._call(block, x, *args, **kwargs)

        return call


GROUPED = {"num_kv_heads": 2, "attention_window": (5, None), "partial_rotary_factor": (1.0, 0.5)}


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"positions": "rotary", **GROUPED}, marks=pytest.mark.optimised),
        pytest.param({"positions": "learned"}, marks=pytest.mark.soak),
        pytest.param({"positions": "relative", "parallel": True}, marks=pytest.mark.soak),
    ],
    ids=["rotary", "learned", "relative"],
)
def test_greedy_with_a_cache_is_the_definition_for_uneven_prompts(options):
    model = causal_lm(**options)
    expected = [greedy_by_hand(model, prompt, 12) for prompt in PROMPTS]
    assert generate_ids(model, PROMPTS, max_new_tokens=12, cached=True) == expected


@pytest.mark.soak
def test_no_row_is_cut_short_by_a_longer_one():
    model = causal_lm(positions="learned")
    prompts = [[3] * 60, [4, 5]]
    alone = [generate_ids(model, [prompt])[0] for prompt in prompts]
    assert list(map(len, alone)) == [4, 62]  # all that the context of 64 leaves
    assert generate_ids(model, prompts) == generate_ids(model, prompts, cached=False) == alone


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(sequential, marks=pytest.mark.soak),
        pytest.param(lambda: sequential(mask_zero=True), marks=pytest.mark.soak),
        pytest.param(functional, marks=pytest.mark.optimised),
    ],
    ids=["sequential", "masked", "functional"],
)
def test_models_of_ones_own_are_cached_and_right(make):
    model = make()
    prompts = [[3, 0, 5], [6] * 11, [7]]  # Token 0 is hidden where mask_zero asks for it.
    assert isinstance(get_stepper(model), CachedStepper)
    expected = [greedy_by_hand(model, prompt, 8) for prompt in prompts]
    assert generate_ids(model, prompts, max_new_tokens=8) == expected
    assert generate_ids(model, prompts, max_new_tokens=8, cached=False) == expected


def test_a_model_with_a_call_of_its_own_is_decoded_by_it():
    class Contrary(kerasllm.models.CausalLM):
        def call(self, inputs, training=None):
            return -super().call(inputs, training=training)

    model = scattered(Contrary(shared().config))
    assert isinstance(get_stepper(model), PlainStepper)
    (drawn,) = generate_ids(model, [[3, 4, 5]], max_new_tokens=1)
    assert drawn == [int(np.argmax(model(np.array([[3, 4, 5]]))[0, -1]))]


def test_a_model_that_mixes_tokens_elsewhere_is_recomputed():
    ids = keras.Input((20,), dtype="int32")
    x = keras.layers.Embedding(V, 24)(ids)
    x = keras.layers.Conv1D(24, 3, padding="causal")(x)
    x = kerasllm.layers.Transformer(1, 24, 4, 48)(x)
    model = scattered(keras.Model(ids, keras.layers.Dense(V)(x)))
    assert isinstance(get_stepper(model), PlainStepper)
    text = generate_ids(model, [[3, 4, 5]], max_new_tokens=6)[0]
    padded = np.zeros((1, 20), "int32")
    padded[0, :9] = [3, 4, 5, *text]
    likeliest = ops.convert_to_numpy(model(padded))[0].argmax(-1)
    assert text == likeliest[2:8].tolist()
    with pytest.raises(ValueError, match="cannot be decoded with a cache"):
        generate_ids(model, [[3]], max_new_tokens=2, cached=True)
    with pytest.raises(ValueError, match="context of 20: ask for at most 17"):
        generate_ids(model, [[3, 4, 5]], max_new_tokens=18)


def test_what_is_not_causal_or_not_a_chain_gets_no_cache():
    def layers(**options):
        return [keras.layers.Embedding(V, 24), kerasllm.layers.Transformer(1, 24, 4, 48, **options)]

    assert isinstance(get_stepper(keras.Sequential([*layers(causal=False), keras.layers.Dense(V)])), PlainStepper)
    ids = keras.Input((None,), dtype="int32")
    embedding, transformer = layers()
    x = embedding(ids)
    residual = keras.Model(ids, keras.layers.Dense(V)(transformer(x) + x))
    assert isinstance(get_stepper(residual), PlainStepper)


@pytest.mark.soak
def test_sampling_is_the_same_with_a_cache_without_and_in_a_larger_batch():
    model = shared()
    options = {"sampler": "random", "temperature": 0.8, "top_k": 12, "top_p": 0.9, "min_p": 0.01, "seed": 5}
    options |= {"repetition_penalty": 1.3, "max_new_tokens": 10}
    batch = generate_ids(model, PROMPTS, **options)
    assert batch == generate_ids(model, PROMPTS, **options, cached=False)
    assert batch[0] == generate_ids(model, PROMPTS[:1], **options)[0]
    assert batch != generate_ids(model, PROMPTS, **{**options, "seed": 6})


@pytest.mark.parametrize(
    "options",
    [{}, *(pytest.param(options, marks=pytest.mark.soak) for options in ({"num_kv_heads": 1}, {"cached": False}))],
)
def test_equal_prompts_are_read_once_and_draw_what_they_draw_alone(options, monkeypatch):
    """One head of keys has a cache of another form."""
    options, cached = dict(options), options.get("cached")
    options.pop("cached", None)
    model, read = causal_lm(**options), []
    embed = model.embed
    monkeypatch.setattr(model, "embed", lambda inputs: read.append(tuple(inputs["token_ids"].shape)) or embed(inputs))
    prompts = [[3, 4, 5], [6] * 11, [3, 4, 5], [3, 4, 5]]
    draw = {"sampler": "random", "temperature": 0.5, "seed": 3, "cached": cached}
    texts = generate_ids(model, prompts, 12, **draw)
    assert len(set(map(tuple, texts))) > 2  # four draws, of two prompts
    assert read[0][0] == 2
    assert generate_ids(model, prompts[:1] * 3, 12, **draw)[0] == texts[0]
    monkeypatch.setattr("kerasllm.generation.decoding.shared_prompts", lambda prompts: ())
    assert generate_ids(model, prompts, 12, **draw) == texts


@pytest.mark.skipif(not backend.on_cpu(), reason="other devices multiply 16 bits as fast as they can")
@pytest.mark.optimised
@pytest.mark.parametrize("dtype", ["bfloat16", "mixed_float16"])
@pytest.mark.soak
def test_cpus_decode_narrow_models_in_float32(dtype):
    config = TransformerConfig.preset("gpt2", vocab_size=V, num_layers=2, d_model=32, num_heads=4, dff=64)
    narrow, wide = scattered(CausalLM(config, dtype=dtype)), CausalLM(config)
    wide.set_weights([ops.cast(weight, "float32") for weight in narrow.weights])

    def by_third_digit(logits, seed):  # which 16 bits do not hold
        return ops.cast(ops.floor(200 * logits[:, 0]), "int32") % V

    ids = [generate_ids(model, PROMPTS, max_new_tokens=10, sampler=by_third_digit) for model in (narrow, wide)]
    assert ids[0] == ids[1]
    assert keras.backend.standardize_dtype(narrow(np.array([[1]])).dtype) == dtype.removeprefix("mixed_")


def test_many_models_in_one_process_are_no_retracing(caplog):
    for number in range(8):  # as of models and lengths that are compiled apart
        assert backend.compile_function(lambda x: x + 1, [], xla=False)(np.float32(number)) == number + 1
    assert not caplog.records


@pytest.mark.optimised
@pytest.mark.soak
def test_of_deep_models_a_run_of_layers_is_compiled_once(monkeypatch):
    monkeypatch.setattr(likeness, "MOST_IN_A_RUN", 2)
    monkeypatch.setattr(stepping, "MOST_AS_A_WHOLE", 2)
    monkeypatch.setattr(TransformerBlock, "_forward", spied := Spy(TransformerBlock._forward))
    options = {"num_kv_heads": 2, "attention_window": (5, None) * 2, "max_length": 64}
    model = scattered(CausalLM(TransformerConfig(V, num_layers=4, d_model=32, num_heads=4, dff=64, **options)))
    expected = [greedy_by_hand(model, prompt, 8) for prompt in PROMPTS]
    spied.lengths.clear()
    assert generate_ids(model, PROMPTS, 8) == expected
    assert spied.lengths == [16] * 3 + [1] * 2  # of a prompt: one that sees 5 tokens, one that sees all, and the last
    drawn = generate_ids(model, PROMPTS, 8, temperature=0.9, seed=1)
    assert spied.lengths.count(1) == 2  # nothing anew
    monkeypatch.setattr(CachedStepper, "in_runs", False)
    assert generate_ids(model, PROMPTS, 8, temperature=0.9, seed=1, top_p=1.0) == drawn


@pytest.mark.soak
@pytest.mark.optimised
def test_a_loop_that_is_used_much_is_compiled_whole(monkeypatch):
    monkeypatch.setattr(stepping, "MOST_AS_A_WHOLE", 1)
    monkeypatch.setattr(tiers, "LARGEST_STATE", 2)  # times such small weights
    model, options = causal_lm(), {"temperature": 0.9, "seed": 1}
    with tiers.impatient():
        drawn = generate_ids(model, PROMPTS, 8, **options)
    (_, decode), *_ = [loop for key, loop in model._compiled_decoders.items() if key[0] != "runs"]
    monkeypatch.delattr(decode.__self__, "_in_runs")  # which is not asked again
    assert generate_ids(model, PROMPTS, 8, **options) == drawn


@pytest.mark.traced
@pytest.mark.optimised
def test_another_length_or_setting_compiles_nothing_new(monkeypatch):
    traced = []
    monkeypatch.setattr(loop, "sample", lambda *args: traced.append(args) or samplers.sample(*args))
    model = causal_lm()
    options = {"max_new_tokens": 5, "sampler": "random", "seed": 1}
    generate_ids(model, [[1, 2, 3]], temperature=0.5, **options)
    assert len(traced) == 2
    generate_ids(model, [[1] * 9], temperature=0.9, **{**options, "max_new_tokens": 30, "seed": 2})
    assert len(traced) == 2
    generate_ids(model, [[1] * 17], **options)
    assert len(traced) == 4


def test_ends_limits_and_ids_the_tokenizer_does_not_have():
    model = shared()
    free = generate_ids(model, PROMPTS, max_new_tokens=12)
    end = free[0][4]
    ended = generate_ids(model, PROMPTS, max_new_tokens=12, end_ids=[end])
    assert ended == [row[: row.index(end)] if end in row else row for row in free]
    kept_on = generate_ids(model, PROMPTS[:1], max_new_tokens=12, end_ids=[end], min_new_tokens=12)[0]
    assert len(kept_on) == 12 and end not in kept_on
    options = {"max_new_tokens": 40, "sampler": "random", "temperature": 3.0, "seed": 0}
    assert max(generate_ids(model, [[1]], vocab_size=7, **options)[0]) < 7


def test_a_penalty_makes_repetition_rarer():
    model = shared()
    plain = generate_ids(model, [[3, 4]], max_new_tokens=30)[0]
    penalised = generate_ids(model, [[3, 4]], max_new_tokens=30, repetition_penalty=5.0)[0]
    assert len(set(penalised)) > len(set(plain))


def likely_by_hand(logits, top_k, top_p, min_p):
    """Top-k, then top-p, then min-p, one token after the other."""
    kept, mass = [], 0.0
    order = np.argsort(-logits)[: top_k or None]
    probabilities = np.exp(logits[order] - logits.max())
    probabilities /= probabilities.sum()
    for token, probability in zip(order, probabilities, strict=True):
        if kept and (mass >= top_p or probability < min_p * probabilities[0]):
            break
        kept.append(int(token))
        mass += probability
    return set(kept)


@given(
    st.lists(st.integers(-60, 60), min_size=2, max_size=12, unique=True),
    st.integers(0, 12),
    st.floats(0.05, 1.0),
    st.floats(0.0, 1.0),
)
def test_filters_keep_the_likely_tokens(tenths, top_k, top_p, min_p):
    logits = np.array(tenths, "float64") / 10
    filtered = ops.convert_to_numpy(samplers.keep_likely(ops.cast(logits[None], "float32"), top_k, top_p, min_p))[0]
    kept = set(np.flatnonzero(np.isfinite(filtered)).tolist())
    narrow, wide = (likely_by_hand(logits, top_k, top_p + e, min_p - e) for e in (-1e-5, 1e-5))
    assert narrow <= kept <= wide or kept in (narrow, wide)


def test_draws_follow_the_probabilities():
    probabilities = np.array([0.5, 0.3, 0.15, 0.05])
    logits = np.tile(np.log(probabilities), (20000, 1)).astype("float32")
    sampler = Sampler(temperature=1.0)
    drawn = ops.convert_to_numpy(samplers.sample(sampler.graph_key, sampler.settings(), logits, np.array([3, 4])))
    assert np.allclose(np.bincount(drawn, minlength=4) / 20000, probabilities, atol=0.012)


def test_samplers_by_name_callable_and_from_keras_nlp():
    assert samplers.get_sampler("greedy") == Sampler(temperature=0.0)
    assert samplers.get_sampler("top_k", temperature=0.5) == Sampler(temperature=0.5, top_k=50)
    assert samplers.get_sampler(keras_nlp.samplers.GreedySampler()) == Sampler(temperature=0.0)
    assert samplers.get_sampler(keras_nlp.samplers.RandomSampler(temperature=0.7)) == Sampler(temperature=0.7)
    assert samplers.get_sampler(keras_nlp.samplers.TopKSampler(k=7)) == Sampler(top_k=7)
    assert samplers.get_sampler(keras_nlp.samplers.TopPSampler(p=0.3, k=9)) == Sampler(top_k=9, top_p=0.3)
    with pytest.raises(ValueError, match="BeamSampler is not supported"):
        samplers.get_sampler(keras_nlp.samplers.BeamSampler())

    def least_likely(logits, seed):
        return ops.argmin(logits, axis=-1)

    model = shared()
    logits = ops.convert_to_numpy(model(np.array([[3, 4]])))[0, -1]
    assert generate_ids(model, [[3, 4]], max_new_tokens=1, sampler=least_likely) == [[logits.argmin()]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "best"}, "Unknown sampler 'best'. Use one of greedy"),
        ({"sampler": "greedy", "temperature": 0.5}, "greedy sampler takes no temperature"),
        ({"sampler": "random", "temperature": -1}, "`temperature` must be at least 0, got -1"),
        ({"sampler": "top_p", "top_p": 1.5}, "`top_p` must be more than 0 and at most 1, got 1.5"),
        ({"max_new_tokens": 0}, "`max_new_tokens` must be at least 1, got 0"),
        ({"max_new_tokens": 5, "min_new_tokens": 6}, "`min_new_tokens` must be between 0 and"),
        ({"max_new_tokens": 63}, "2 tokens with max_new_tokens=63 does not fit the model's context of 64: ask for at"),
        ({"prompts": [[1] * 64]}, "shorten the prompt to under 64 tokens"),
        ({"prompts": [[V]]}, f"token id {V}, but the model knows ids from 0 to {V - 1}"),
        ({"prompts": [[1], []]}, "Each prompt needs at least one token"),
    ],
)
def test_bad_requests_get_one_clear_sentence(options, message):
    options = {"prompts": [[1, 2]], **options}
    with pytest.raises(ValueError, match=message):
        generate_ids(shared(), **options)


def test_buffers_never_exceed_the_context_for_the_prompt():
    model = shared()
    assert buffer_lengths(model, 3, 10) == (16, 80)
    assert buffer_lengths(model, 50, 14) == (64, 128)


@pytest.fixture(scope="module")
def text_model():
    tokenizer = Tokenizer.train([TEXT], kind="char", progress=False)
    config = TransformerConfig(tokenizer.vocab_size + 3, num_layers=1, d_model=32, num_heads=2, dff=64, max_length=96)
    return scattered(CausalLM(config)), tokenizer


@pytest.mark.optimised
def test_text_in_text_out(text_model):
    options = {"max_new_tokens": 20, "sampler": "random", "seed": 3}
    text = kerasllm.generate(*text_model, "to be", **options)
    assert isinstance(text, str) and text
    batch = kerasllm.generate(*text_model, ["to be", "", "question"], **options)
    assert len(batch) == 3 and batch[0] == text
    assert kerasllm.generate(*text_model, [], **options) == []
    with pytest.raises(TypeError, match="A prompt must be a str, a list of token ids"):
        kerasllm.generate(*text_model, [3.0])


@pytest.mark.optimised
def test_stream_and_stop_strings_agree_with_generate(text_model):
    options = {"max_new_tokens": 40, "sampler": "random", "seed": 3}
    whole = kerasllm.generate(*text_model, "to be", **options)
    pieces = list(kerasllm.stream(*text_model, "to be", **options))
    assert len(pieces) > 1 and "".join(pieces) == whole
    stop = whole[10:13]
    stopped = kerasllm.generate(*text_model, ["to be", "not"], stop=["~never~", stop], **options)
    assert stopped[0] == whole[: whole.index(stop)] and stop not in stopped[1]
    assert "".join(kerasllm.stream(*text_model, "to be", stop=stop, **options)) == stopped[0]
    with pytest.raises(ValueError, match="`stop` must be a non-empty str"):
        kerasllm.generate(*text_model, "to be", stop="")


@pytest.mark.parametrize(
    "options",
    [
        {"attention_window": (5, None), "num_kv_heads": 1},
        pytest.param({"positions": "relative"}, marks=pytest.mark.soak),
    ],
    ids=["ring", "full"],
)
def test_a_prefix_is_read_once_and_changes_no_text(options):
    model, tokenizer = causal_lm(**options), Tokenizer.train([TEXT], kind="char", progress=False)
    beginning = np.random.default_rng(0).integers(1, V, 30).tolist()
    prefix = read_prefix(model, tokenizer, beginning)
    prompts = [[*beginning, 3, 4, 5], beginning + [7] * 9, [*beginning[:28], 9, 9], beginning]
    texts = generate_ids(model, prompts, 12)
    with taps.recording("transformer/embedding") as found:
        assert generate_ids(model, prompts, 12, prefix=prefix) == texts
    (passed,) = found.values()
    assert passed[0].shape[1] == 16 and sum(step.shape[1] for step in passed) == 16 + 11
    assert generate_ids(model, [[3, 4, 5]], 12, prefix=prefix) == generate_ids(model, [[3, 4, 5]], 12)
    with pytest.raises(ValueError, match=r"`prefix` was read by causal_lm\S*, which is not this model"):
        generate_ids(causal_lm(**options), prompts, 12, prefix=prefix)
    with pytest.raises(TypeError, match=r"`prefix` is what kerasllm\.generation\.read_prefix returns, got str"):
        generate_ids(model, prompts, 12, prefix="to be")
    adapters.add(model, rank=1)
    with pytest.raises(ValueError, match="with other adapters than those in use"):
        generate_ids(model, prompts, 12, prefix=prefix)
