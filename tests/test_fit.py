"""`fit` as people write it: what it learns from, what it leaves out, and what it refuses in one sentence."""

import functools
import time
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasllm.layers import Transformer
from kerasllm.losses import TokenCrossentropy
from kerasllm.metrics import Perplexity
from kerasllm.models import CausalLM, MaskedLM, Seq2SeqLM, TransformerConfig
from kerasllm.optimizers import AdamW, Muon

SIZES = {"vocab_size": 37, "num_layers": 1, "d_model": 16, "num_heads": 2, "dff": 24, "max_length": 16}
LENGTHS = np.array([12, 3, 5, 7, 9, 2])
IDS = np.random.default_rng(0).integers(0, 37, (6, 12)).astype("int32")
LABELS = np.roll(IDS, -1, axis=1)
REAL = (np.arange(12) < LENGTHS[:, None]).astype("float32")
IGNORED = np.where(REAL > 0, LABELS, -100)
ALL = np.ones((6, 12), "float32")
MODES = {
    "graph": {},
    "XLA": {"jit_compile": True},
    "eager": {"run_eagerly": True},
    "parts": {"micro_batches": 2, "loss": TokenCrossentropy(chunk_size=5)},
}
IN_QUICK_MODES = pytest.mark.parametrize(
    "mode", [pytest.param(mode, marks=pytest.mark.soak if mode == "XLA" else ()) for mode in MODES]
)


def make(kind=CausalLM, optimizer="sgd", loss=None, **options):
    keras.utils.set_random_seed(0)
    model = kind(TransformerConfig(**SIZES))
    model.compile(optimizer, loss, **options)
    return model


@functools.cache
def shared(mode):
    """A compiled model and the weights that it begins with."""
    model = make(**MODES[mode])
    return model, model.get_weights()


def fitted(x, y=None, sample_weight=None, mode="graph", kind=CausalLM, **options):
    """The metrics of a step from those weights, which leaves its own behind."""
    model = make(kind, **options)
    if kind is CausalLM and not options:
        model, weights = shared(mode)
        model.set_weights(weights)
    history = model.fit(x, y, sample_weight=sample_weight, shuffle=False, verbose=0).history
    return {name: values[0] for name, values in history.items()}


@functools.cache
def unfitted(kind):
    return make(kind)


def ragged(rows):
    return tf.RaggedTensor.from_tensor(rows, lengths=LENGTHS)


def replaced(rows, value):
    rows = rows.copy()
    rows[4, 3] = value
    return rows


@pytest.fixture(scope="module")
def of_real_tokens():
    loss = fitted(IDS, LABELS, REAL)
    return loss, shared("graph")[0].get_weights()


@IN_QUICK_MODES
def test_ignored_labels_are_neither_learned_nor_counted(mode, of_real_tokens):
    assert fitted(IDS, IGNORED, ALL, mode) == pytest.approx(of_real_tokens[0], rel=1e-5)
    for found, expected in zip(shared(mode)[0].get_weights(), of_real_tokens[1], strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


@IN_QUICK_MODES
def test_ids_outside_the_vocabulary_are_named_and_not_learned(mode):
    model, before = shared(mode)
    place = r"in row 4 of its batch, at position 3, is outside the model's vocabulary of 37 ids \(0 to 36\): "
    for x, y, message in (
        (IDS, replaced(LABELS, -1), f"label -1 {place}.*TokenCrossentropy.ignore_class=-1"),
        (replaced(IDS, 99), LABELS, f"token id 99 {place}use the tokenizer that the model was made for"),
    ):
        with pytest.raises(ValueError, match=message):
            fitted(x, y, ALL, mode)
        for expected, found in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match=f"label 37 {place}"):
        model.evaluate(IDS, replaced(LABELS, 37), sample_weight=ALL, verbose=0)
    fitted(IDS, replaced(LABELS, -100), ALL, mode)


@pytest.mark.soak
def test_which_label_is_ignored_can_be_said_and_metrics_leave_it_out():
    model = make(loss=TokenCrossentropy(ignore_class=-1), metrics=["accuracy"], optimizer=AdamW(0.05))
    labels = np.where(REAL > 0, LABELS, -1)
    model.fit(IDS, labels, epochs=30, verbose=0)
    found = model.evaluate(IDS, labels, verbose=0, return_dict=True)
    right = model.predict(IDS, verbose=0).argmax(-1) == LABELS
    assert found["accuracy"] == pytest.approx(right[REAL > 0].mean(), abs=1e-6) and found["accuracy"] > 0.5
    assert TokenCrossentropy.from_config(model.loss.get_config()).ignore_class == -1
    metric, plain = Perplexity(), Perplexity(ignore_class=None)
    logits = model.predict(IDS, verbose=0)
    metric.update_state(IGNORED[..., None], logits)
    plain.update_state(LABELS, logits, REAL)
    assert float(metric.result()) == pytest.approx(float(plain.result()), rel=1e-6)


@pytest.mark.soak
def test_losses_of_keras_take_logits_and_go_on_as_keras_does_it():
    kind = keras.losses.SparseCategoricalCrossentropy
    logits = make()(IDS)
    whole = float(kind(from_logits=True)(LABELS, logits))
    with pytest.warns(UserWarning, match="The model gives logits.*say from_logits=True"):
        assert fitted(IDS, LABELS, loss="sparse_categorical_crossentropy")["loss"] == pytest.approx(whole, rel=1e-5)
    with pytest.warns(UserWarning, match="The model gives logits"):
        assert make(loss=kind(ignore_class=5)).loss.get_config() == kind(True, ignore_class=5).get_config()
    ignoring = kind(from_logits=True, ignore_class=-100)
    expected = float(ignoring(IGNORED, logits))
    assert fitted(IDS, IGNORED, loss=ignoring)["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.soak
def test_ids_outside_the_vocabulary_are_named_wherever_they_come_in():
    data = tf.data.Dataset.from_tensor_slices((IDS, replaced(LABELS, 99))).batch(3).repeat()
    with pytest.raises(ValueError, match="label 99 in row 1 of its batch"):
        make(steps_per_execution=4).fit(data, steps_per_epoch=4, verbose=0)
    with pytest.raises(ValueError, match=r"token id -5 .*pad with an id of the tokenizer"):
        make().predict(replaced(IDS, -5), verbose=0)
    with pytest.raises(ValueError, match="token id 99 in row 4"):
        make()(replaced(IDS, 99))
    with pytest.raises(ValueError, match="label 99 in row 4"):
        make().train_on_batch(IDS, replaced(LABELS, 99))
    with pytest.raises(ValueError, match="source id 99 in row 4"):
        make(Seq2SeqLM, run_eagerly=True).predict({"source_ids": replaced(IDS, 99), "target_ids": IDS}, verbose=0)
    with pytest.raises(ValueError, match="label 99 in row 4"):
        TokenCrossentropy()(replaced(LABELS, 99), np.zeros((6, 12, 37), "float32"))


def test_what_no_model_can_take_is_refused():
    text = np.array(["to be", "or not"])
    for x in (text, text.tolist(), tf.data.Dataset.from_tensors((tf.constant(text), LABELS[:2]))):
        with pytest.raises(TypeError, match="are numbers, and got text: encode it with the tokenizer first"):
            fitted(x, None if hasattr(x, "element_spec") else LABELS[:2])
    for x in (IDS.astype("float32"), keras.Input((None,))):
        with pytest.raises(TypeError, match="are whole numbers, and got float32: convert them"):
            make()(x)
    long = np.ones((2, 20), "int32")
    unknown = tf.TensorSpec((None, None), "int32")
    of_any_length = tf.data.Dataset.from_generator(lambda: iter([(long, long)]), output_signature=(unknown, unknown))
    for data in ((long, long), (of_any_length,)):
        with pytest.raises(ValueError, match="Rows of 20 tokens are longer than the model's context of 16: make them"):
            fitted(*data)
    with pytest.raises(ValueError, match=r"Labels \(6, 5\) do not fit token ids \(6, 12\)"):
        make().fit(IDS, LABELS[:, :5], verbose=0)


@pytest.mark.parametrize(
    ("kind", "inputs", "labels", "said"),
    [
        (CausalLM, {"input_ids": IDS}, LABELS, "no `input_ids` among its inputs: here it is `token_ids`"),
        (
            CausalLM,
            {"token_ids": IDS, "attention_mask": IDS},
            LABELS,
            "`attention_mask`.*: document_ids is 0 where a row",
        ),
        (CausalLM, {"token_ids": IDS, "labels": LABELS}, None, "`labels`.*: labels stand beside the inputs"),
        (MaskedLM, {"token_ids": IDS, "segment_ids": IDS}, LABELS, "here it is `token_type_ids`"),
        (CausalLM, {"document_ids": IDS}, LABELS, "A CausalLM reads token_ids, got document_ids"),
        (Seq2SeqLM, {"input_ids": IDS, "target_ids": IDS}, LABELS, "here it is `source_ids`"),
        (Seq2SeqLM, (IDS, IDS), LABELS, "reads a dict with source_ids and target_ids, got inputs of type tuple"),
        (Seq2SeqLM, IDS, LABELS, "reads a dict with source_ids and target_ids, got inputs of type ndarray"),
        (CausalLM, IDS.tolist(), LABELS, r"are an array, and got a list: np.array\(rows\)"),
        (CausalLM, IDS[0], LABELS[0], r"are rows of ids, \(B, T\), got the shape \(12,\)"),
        (CausalLM, IDS, LABELS[:, 0], r"Labels \(6,\) do not fit token ids \(6, 12\)"),
        (CausalLM, IDS, LABELS + 0.5, "Labels are token ids, whole numbers, and got"),
    ],
)
def test_inputs_of_other_names_and_forms_are_answered_with_ours(kind, inputs, labels, said):
    model = unfitted(kind)
    with pytest.raises((TypeError, ValueError), match=said):
        model.fit(inputs, labels, verbose=0)
    if isinstance(inputs, dict | tuple):
        with pytest.raises((TypeError, ValueError), match=said):
            model(inputs)


@pytest.mark.parametrize("ignored", [None, -100])
def test_losses_of_keras_get_no_labels_outside_the_vocabulary(ignored):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=ignored)
    model = make(loss=loss, weighted_metrics=[Perplexity()])
    before = model.get_weights()
    with pytest.raises(ValueError, match="label -1 in row 4 of its batch, at position 3, is outside the model's"):
        model.fit(IDS, replaced(LABELS, -1), shuffle=False, verbose=0)
    for found, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_weights_of_rows_tokens_and_labels_one_after_the_other(of_real_tokens):
    model, rows = make(optimizer=keras.optimizers.SGD(0.0), run_eagerly=True), np.array([0, 1, 2, 1, 0, 0.5])
    of_real_tokens = of_real_tokens[0]

    def loss(labels=LABELS, **fit):
        return model.fit(IDS, labels, verbose=0, **fit).history["loss"][0]

    for _ in range(2):
        assert loss(sample_weight=rows) == pytest.approx(loss(sample_weight=rows[:, None] * np.ones((6, 12))), rel=1e-5)
        assert loss(sample_weight=REAL) == pytest.approx(of_real_tokens["loss"], rel=1e-5)
        assert loss(LABELS[..., None], sample_weight=REAL) == pytest.approx(of_real_tokens["loss"], rel=1e-5)
    by_label = np.select([LABELS[0, 0] == LABELS, LABELS[1, 1] == LABELS], [0.0, 3.0], 1.0)
    weights = {int(LABELS[0, 0]): 0.0, int(LABELS[1, 1]): 3.0}
    expected = loss(sample_weight=by_label * REAL)
    assert loss(sample_weight=REAL, class_weight=weights) == pytest.approx(expected, rel=1e-5)
    assert loss(sample_weight=REAL) == pytest.approx(of_real_tokens["loss"], rel=1e-5) != pytest.approx(expected)
    with pytest.raises(ValueError, match="`class_weight` has weights of at least 0 for labels from 0 to 36, got 1 for"):
        loss(class_weight={37: 1})


def test_without_labels_the_next_token_is_learned():
    expected = fitted(IDS, LABELS, ALL * (np.arange(12) < 11))
    with pytest.warns(UserWarning, match="the model learns the token that follows each"):
        assert fitted(IDS) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="A MaskedLM learns to name hidden tokens, so it needs labels"):
        fitted(IDS, kind=MaskedLM)
    documents = np.repeat([[1, 2, 0]], 4, axis=1) * np.ones((6, 1), "int32")
    packed = {"token_ids": IDS, "document_ids": documents}
    follows = (np.diff(documents, append=9) == 0) & (documents > 0)
    with pytest.warns(UserWarning, match="No labels were given"):
        _, weight = make()._labels({name: tf.constant(rows) for name, rows in packed.items()}, None, None)
    np.testing.assert_array_equal(weight, follows)


@pytest.mark.soak
@pytest.mark.parametrize("options", [{}, {"micro_batches": 2, "loss": TokenCrossentropy(chunk_size=5)}])
@pytest.mark.parametrize("kind", [CausalLM, MaskedLM, Seq2SeqLM])
def test_xla_compiles_a_step_once_for_all_ids(kind, options):
    """A part of ids that only they tell the place of has XLA compile a step for their values."""
    model, seconds = make(kind, optimizer=AdamW(1e-3), jit_compile=True, **options), []
    for draw in map(np.random.default_rng, range(3)):
        ids = draw.integers(0, 37, (6, 12)).astype("int32")
        x = {"source_ids": ids, "target_ids": ids} if kind is Seq2SeqLM else ids
        begin = time.perf_counter()
        model.train_on_batch(x, LABELS, ALL)
        seconds.append(time.perf_counter() - begin)
    assert seconds[2] < seconds[0] / 5, seconds


@pytest.mark.soak
def test_ragged_batches_are_filled_up(of_real_tokens):
    rows, labels = ragged(IDS), ragged(LABELS)
    data = tf.data.Dataset.from_tensor_slices((rows, labels)).batch(6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Keras, that it cannot shuffle a Dataset
        for x, y in ((rows, labels), (data, None)):
            assert fitted(x, y) == pytest.approx(of_real_tokens[0], rel=1e-5)
        expected = fitted(IDS, LABELS, ALL * (np.arange(12) < LENGTHS[:, None] - 1))
        assert fitted(data.map(lambda x, _: x)) == pytest.approx(expected, rel=1e-5)
        packed = {"token_ids": IDS, "document_ids": REAL.astype("int32")}
        expected = fitted(packed, LABELS, REAL, kind=MaskedLM, run_eagerly=True)
        assert fitted(data, kind=MaskedLM) == pytest.approx(expected, rel=1e-5)


def test_the_loss_in_a_model_of_ones_own_ignores_honours_masks_and_stops():
    embedding = keras.layers.Embedding(37, 16, mask_zero=True)
    model = keras.Sequential([embedding, Transformer(1, 16, 2, 24), keras.layers.Dense(37)])
    loss, logits = TokenCrossentropy(), model(IDS)
    expected = float(loss(LABELS, np.array(logits), REAL * (IDS != 0)))
    assert (
        float(loss(IGNORED, logits)) == pytest.approx(expected, rel=1e-5) != pytest.approx(float(loss(LABELS, logits)))
    )
    model.compile("sgd", loss)
    assert model.fit(IDS, IGNORED, verbose=0).history["loss"] == pytest.approx([expected], rel=1e-5)
    said = r"A label is outside of 0 to 36, and not ignore_class=-100|The label 99 in row \d of its batch"
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match=said):
        model.fit(IDS, replaced(LABELS, 99), verbose=0)


@pytest.mark.parametrize("kind", [AdamW, Muon])
def test_another_way_to_clip_takes_the_place_of_ours(kind):
    found = [kind(clipnorm=0.5), kind(clipvalue=0.5), kind(), kind(global_clipnorm=None)]
    for optimizers in (found, [kind.from_config(optimizer.get_config()) for optimizer in found]):
        clips = [(each.clipnorm, each.clipvalue, each.global_clipnorm) for each in optimizers]
        assert clips == [(0.5, None, None), (None, 0.5, None), (None, None, 1.0), (None, None, None)]
    with pytest.raises(ValueError, match="Only one of `clipnorm`, `clipvalue` and `global_clipnorm`"):
        kind(clipnorm=1.0, global_clipnorm=1.0)
