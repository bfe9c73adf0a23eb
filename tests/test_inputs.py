"""What models read beside token ids, from a call to the compiled loop, and embeddings in the place of ids."""

import doctest

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from oracles import scramble

import kerasllm
from kerasllm.generation import generate_ids
from kerasllm.generation.stepping import CachedStepper, get_stepper
from kerasllm.losses import TokenCrossentropy
from kerasllm.models import CausalLM, MaskedLM, Seq2SeqLM, TransformerConfig
from kerasllm.tokenizers import Tokenizer

V, D = 24, 16
SIZES = {"num_layers": 1, "d_model": D, "num_heads": 2, "dff": 32, "max_length": 32}
PLACE = V - 1  # the token in whose place a vector stands
RNG = np.random.default_rng(0)
IDS = RNG.integers(1, PLACE, (3, 9)).astype("int32")
TYPES = np.sort(RNG.integers(0, 2, (3, 9)), axis=1).astype("int32")


class TypedLM(CausalLM):
    """A model with token types, and with vectors that are no tokens, as of pictures."""

    optional_inputs = ("document_ids", "token_type_ids", "vectors")

    def build(self, shape):
        self.type_embedding = keras.layers.Embedding(3, D, dtype=self.dtype_policy)
        self.type_embedding.build(shape)
        super().build(shape)

    def embed(self, inputs):
        ids = inputs["token_ids"]
        x = super().embed(inputs) + self.type_embedding(inputs.get("token_type_ids", 0 * ids))
        if "vectors" not in inputs:
            return x
        is_place = ops.cast(ids == PLACE, "int32")
        number = ops.reshape(ops.cumsum(ops.reshape(is_place, (-1,))), ops.shape(ids))
        vectors = ops.take(inputs["vectors"], ops.maximum(number - 1, 0), axis=0)
        return ops.where(is_place[..., None] > 0, vectors, x)


def typed_lm(**options):
    config = TransformerConfig(V, **SIZES, norm="rms", use_bias=False, tie_embeddings=False, **options)
    return scramble(TypedLM(config))


def by_second_digit(logits, seed=None):
    """A sampler that goes another way at the smallest difference."""
    return ops.cast(ops.floor(20 * logits[:, 0]), "int32") % PLACE


def by_hand(model, prompt, steps):
    """The definition: call the model on the text so far, of which the last type goes on, and append what is drawn."""
    inputs = {name: value if name == "vectors" else np.array(value)[None] for name, value in prompt.items()}
    for _ in range(steps):
        new = {"token_ids": by_second_digit(model(inputs)[:, -1]), "token_type_ids": inputs["token_type_ids"][:, -1]}
        inputs |= {name: np.append(inputs[name], np.array(value)[:, None], axis=1) for name, value in new.items()}
    return inputs["token_ids"][0, -steps:].tolist()


def prompts_of(rows):
    """Prompts of other lengths and types, some with vectors."""
    generator = np.random.default_rng(1)
    prompts = [{"token_ids": IDS[row, row:].tolist(), "token_type_ids": TYPES[row, row:]} for row in rows]
    for prompt in prompts[1:]:
        prompt["token_ids"][1:3] = [PLACE, PLACE]
        prompt["vectors"] = generator.normal(0, 2, (2, D)).astype("float32")
    return prompts


# Where a text grows past 10 tokens, positions turn anew, and the cache is filled anew.
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "original_max_position_embeddings": 10}


@pytest.mark.parametrize(
    ("scaling", "cached"), [(None, True), (DYNAMIC, True), pytest.param(DYNAMIC, False, marks=pytest.mark.soak)]
)
def test_a_prompt_of_several_inputs_goes_on_by_the_definition(scaling, cached):
    model = typed_lm(rope_scaling=scaling)
    assert isinstance(get_stepper(model), CachedStepper)
    prompts = prompts_of([0, 1, 2])
    options = {"max_new_tokens": 5, "sampler": by_second_digit, "cached": cached}
    drawn = generate_ids(model, prompts, **options)
    assert drawn == [by_hand(model, prompt, 5) for prompt in prompts]
    others = [{**prompt, "token_type_ids": 1 - prompt["token_type_ids"]} for prompt in prompts]
    assert all(a != b for a, b in zip(generate_ids(model, others, **options), drawn, strict=True))


def test_texts_come_with_inputs_too():
    tokenizer = Tokenizer.train(["to be or not"], kind="char", progress=False)
    model = scramble(TypedLM(TransformerConfig(tokenizer.vocab_size, **SIZES)))
    text, ids = {"text": b"to be", "token_type_ids": [0, 0, 1, 1, 2]}, tokenizer.encode("to be")
    expected = tokenizer.decode(generate_ids(model, {**text, "token_ids": ids, "text": None}, max_new_tokens=8))
    assert kerasllm.generate(model, tokenizer, text, max_new_tokens=8, end_ids=()) == expected
    assert "".join(kerasllm.stream(model, tokenizer, text, max_new_tokens=8, end_ids=())) == expected


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({"input_ids": [3]}, "A prompt that is a dict has `text` or `token_ids`, got input_ids"),
        ({"token_ids": [3], "text": "a"}, "A prompt that is a dict has `text` or `token_ids`, got token_ids, text"),
        ({"token_ids": [[3]]}, "`token_ids` of a prompt is a list of int, got list; several prompts are a list"),
        ({"token_ids": [3, 4], "token_type_ids": [1]}, "one value for each token of a prompt, got 1 for 2 tokens"),
        ([[3], {"token_ids": [4], "token_type_ids": [1]}], "`token_type_ids` has one value .* got 0 for 1 tokens"),
        ({"token_ids": [3], "document_ids": [1]}, "prompt for a TypedLM has no `document_ids` among its inputs"),
        ({"token_ids": [3], "segment_ids": [1]}, "no `segment_ids` among its inputs: here it is `token_type_ids`"),
    ],
)
def test_a_prompt_that_does_not_fit_is_refused_in_one_sentence(prompt, message):
    with pytest.raises((TypeError, ValueError), match=message):
        generate_ids(typed_lm(), prompt)


def test_a_model_of_ones_own_reads_token_ids_alone():
    model = keras.Sequential([keras.layers.Embedding(V, D), kerasllm.layers.Transformer(1, D, 2, 32)])
    with pytest.raises(ValueError, match="A prompt for a Sequential has no `token_type_ids` among its inputs"):
        generate_ids(model, {"token_ids": [3], "token_type_ids": [1]})


@pytest.mark.soak
def test_the_documented_subclass_trains_is_scored_saved_and_exported(tmp_path):
    names = {"keras": keras, "kerasllm": kerasllm}
    (example,) = doctest.DocTestParser().get_examples(CausalLM.embed.__doc__)
    exec(compile(example.source, "docstring", "exec"), names)
    model = names["TypedLM"](TransformerConfig(V, **SIZES))
    model.compile(keras.optimizers.Adam(0.02))
    ids = np.full((32, 9), 3, "int32")  # of which only the types tell what comes next
    types = RNG.integers(0, 2, ids.shape)
    model.fit({"token_ids": ids, "token_type_ids": types}, 5 + types, epochs=25, verbose=0)
    assert model.evaluate({"token_ids": ids, "token_type_ids": types}, 5 + types, verbose=0)[0] < 0.1
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", custom_objects=names)
    inputs = {"token_ids": IDS, "token_type_ids": TYPES}
    np.testing.assert_array_equal(loaded(inputs), model(inputs))
    tokenizer = Tokenizer.train(["to be or not"], kind="char", progress=False)
    kerasllm.export.saved_model(model, tokenizer, tmp_path / "exported", text=False)
    forward = tf.saved_model.load(str(tmp_path / "exported")).signatures["forward"]
    np.testing.assert_allclose(forward(token_ids=IDS)["logits"], model(IDS), atol=1e-5)


TYPED = {"token_ids": IDS, "token_type_ids": TYPES, "document_ids": TYPES + 1}
SOURCES = {"source_ids": IDS[:, :5], "source_mask": IDS[:, :5] > 3, "target_ids": IDS[:, 5:]}


@pytest.mark.parametrize(
    ("make", "options", "inputs", "names"),
    [
        (CausalLM, {"scale_embeddings": True, "positions": "learned"}, TYPED, {"embeddings": "token_ids"}),
        (MaskedLM, {"num_token_types": 2, "num_task_types": 2}, TYPED, {"embeddings": "token_type_ids"}),
        (
            *(Seq2SeqLM, {"source_vocab_size": V + 1}, SOURCES),
            {"source_embeddings": "source_ids", "target_embeddings": "target_ids"},
        ),
    ],
)
def test_embeddings_stand_in_the_place_of_ids(make, options, inputs, names):
    model = scramble(make(TransformerConfig(V, **SIZES, **options)))
    inputs = {name: ids for name, ids in inputs.items() if name in (*model.needed_inputs, *model.optional_inputs)}
    embeddings = {name: model.embed(inputs, *([name[:6]] if make is Seq2SeqLM else [])) for name in names}
    others = {name: inputs[name] for name in ("document_ids", "source_mask") if name in inputs}
    with tf.GradientTape() as tape:
        tape.watch(embeddings)
        logits = model({**others, **embeddings})
        total = ops.sum(logits**2)
    np.testing.assert_array_equal(logits, model(inputs))
    for gradient in tape.gradient(total, embeddings).values():
        assert (np.abs(gradient).max(axis=(0, 2)) > 0).all()
    for name, ids in names.items():
        with pytest.raises(ValueError, match=f"reads `{name}` in the place of {ids}, got both: leave one out"):
            model({**others, **embeddings, ids: inputs[ids]})
        with pytest.raises(ValueError, match=f"reads {' and '.join(model.needed_inputs)}, got .* may stand in their"):
            model({**others, **embeddings, name: None})
        with pytest.raises(ValueError, match=rf"`{name}` are vectors as `embed` makes them, \(B, T, 16\), got the sh"):
            model({**others, **embeddings, name: embeddings[name][..., :-1]})


def test_embeddings_are_predicted_from_and_need_labels_to_be_trained_from():
    model, embeddings = CausalLM(TransformerConfig(V, **SIZES)), RNG.normal(size=(3, 9, D)).astype("float32")
    predicted = model.predict({"embeddings": embeddings}, verbose=0)
    np.testing.assert_allclose(predicted, model({"embeddings": embeddings}), atol=1e-5)
    model.compile()
    with pytest.raises(ValueError, match="do not say which token follows which, so they need labels"):
        model.fit({"embeddings": embeddings}, verbose=0)
    labels, loss = np.ones((3, 9), "int32"), []
    for options in ({}, {"loss": TokenCrossentropy(chunk_size=4), "micro_batches": 3}):
        model.compile(keras.optimizers.SGD(0.0), **options)
        loss += model.fit({"embeddings": embeddings}, labels, verbose=0).history["loss"]
    assert loss[0] == pytest.approx(loss[1], rel=1e-5)
