"""Numbers that go wrong: the update is left out, to the bit, and reported with its step and its text."""

import json
import time

import keras
import numpy as np
import pytest

import kerasllm
from kerasllm.callbacks import Checkpoint, LossGuard, RunLog
from kerasllm.callbacks.checkpoint_folder import checkpoints
from kerasllm.models import CausalLM, TransformerConfig
from kerasllm.optimizers import AdamW, Muon, warmup_cosine

OPTIMIZERS = {
    "AdamW": lambda: AdamW(warmup_cosine(0.1, 2, 9), use_ema=True, ema_momentum=0.5),
    "Muon": lambda: Muon(0.1, global_clipnorm=None),
}


class Extra(CausalLM):
    """A model whose loss has an addend that no weight has a part in."""

    def build(self, input_shape=None):
        super().build(input_shape)
        self.extra = self.add_weight(name="extra", trainable=False, initializer="zeros")

    def call(self, inputs, training=False):
        self.add_loss(self.extra * 1.0)
        return super().call(inputs, training=training)


def new_model(optimizer, model_class=CausalLM, micro_batches=1):
    keras.utils.set_random_seed(1)
    model = model_class(TransformerConfig(11, 1, 8, 2, 16, max_length=6))
    model.compile(OPTIMIZERS[optimizer](), micro_batches=micro_batches)
    return model


def batches():
    rng = np.random.default_rng(0)
    return [(rng.integers(0, 11, (4, 6)), rng.integers(0, 11, (4, 6)), np.ones((4, 6), "float32")) for _ in range(4)]


def state_of(model):
    return [*model.trainable_variables, *model.optimizer.variables]


@pytest.mark.parametrize(
    ("optimizer", "micro_batches", "wrong"), [("AdamW", 1, "loss"), ("AdamW", 2, "gradient"), ("Muon", 1, "gradient")]
)
def test_an_update_that_is_not_finite_changes_nothing(optimizer, micro_batches, wrong):
    """Trained with a wrong batch among others, a model is what it is when trained without."""
    model, good = new_model(optimizer, Extra, micro_batches), batches()

    def train(ids, labels, weight):
        return model.train_on_batch(ids, labels, weight, return_dict=True)["loss"]

    def train_wrong(ids, labels, weight):
        if wrong == "gradient":
            return train(ids, labels, weight * np.inf)
        model.extra.assign(np.inf)
        loss = train(ids, labels, weight)
        model.extra.assign(0.0)
        return loss

    first = train_wrong(*good[0])
    assert np.isnan(first) == (wrong == "gradient")  # reported where there is no other loss
    start, ends = [np.array(v) for v in state_of(model)], []
    for bad_at in (None, 2):
        for variable, value in zip(state_of(model), start, strict=True):
            variable.assign(value)
        model.reset_metrics()
        for step, batch in enumerate(good):
            if step == bad_at:
                train_wrong(*batch)
            loss = train(*batch)
        ends.append([np.array(v) for v in state_of(model)])
        assert int(model.optimizer.iterations) == len(good)
        assert np.isfinite(loss)
        ends[-1].append(loss if wrong == "gradient" else 0.0)
    for expected, found in zip(*ends, strict=True):
        np.testing.assert_array_equal(expected, found)
    assert not any(np.array_equal(a, b) for a, b in zip(start[:3], ends[0][:3], strict=True))


def test_nothing_is_left_out_of_what_is_measured():
    ids, labels, weight = batches()[0]
    assert not np.isfinite(new_model("AdamW").evaluate(ids, labels, sample_weight=weight * np.inf, verbose=0)).any()


@pytest.mark.soak
def test_other_backends_leave_the_update_out_too(run_python, other_backend):
    printed = run_python(
        """
        import keras, numpy as np
        from kerasllm.models import CausalLM, TransformerConfig
        from kerasllm.optimizers import AdamW
        weights = []
        for bad in (False, True):
            keras.utils.set_random_seed(1)
            model = CausalLM(TransformerConfig(11, 1, 8, 2, 16, max_length=6))
            model.compile(AdamW(0.1))
            ids = np.arange(24).reshape(4, 6) % 11
            for weight in [1.0, *([np.inf] if bad else []), 1.0]:
                loss = model.train_on_batch(ids, ids, np.full((4, 6), weight, "float32"), return_dict=True)["loss"]
            if keras.backend.backend() == "jax":
                model.jax_state_sync()
            weights.append([np.array(v) for v in (*model.variables, *model.optimizer.variables)])
        print(all(np.array_equal(a, b) for a, b in zip(*weights, strict=True)), len(weights[0]), float(loss))
        """,
        backend=other_backend,
    )
    assert printed.startswith("True") and "nan" not in printed


def test_the_documents_of_a_batch_are_those_that_it_was_made_of():
    """60 documents of one character each, 30 times."""
    characters = [chr(ord("一") + i) for i in range(60)]
    documents = [character * 30 for character in characters]
    tokenizer = kerasllm.tokenizers.Tokenizer.train(documents, kind="char", progress=False)
    stream = kerasllm.data.causal_lm_dataset(documents, tokenizer, seq_len=8, batch_size=4, epochs=2, progress=False)
    packed = kerasllm.data.causal_lm_dataset(documents, tokenizer, 40, 2, packed=True, progress=False)
    pairs = kerasllm.data.seq2seq_dataset([(document, document) for document in documents], tokenizer, batch_tokens=100)

    def numbers(row):
        found = [characters.index(character) for character in tokenizer.decode(row) if character in characters]
        if row[0] == tokenizer.end_id:  # of the document before
            found.append((found[0] - 1) % len(documents))
        return found

    for dataset in (stream, packed, pairs):
        for step, (inputs, _, _) in enumerate(dataset):
            ids = inputs.get("source_ids", inputs.get("token_ids")) if isinstance(inputs, dict) else inputs
            assert dataset.documents_at(step) == sorted(set().union(*map(numbers, ids.numpy().tolist())))


def data_set(weights):
    """A batch for each weight; a large one makes the loss stand out, as labels of another kind would."""
    import tensorflow as tf

    ids, labels, _ = batches()[0]

    def batch(kind):
        return ids, tf.where(kind == 2.0, 10 - labels, labels), tf.where(kind == 0.0, np.nan, 1.0) * tf.ones((4, 6))

    return tf.data.Dataset.from_tensor_slices(np.array(weights, "float32")).map(batch)


GOOD, NOT_FINITE, SPIKE = 1.0, 0.0, 2.0


def fit(kinds, tmp_path, **options):
    model = new_model("Muon")
    model.optimizer.learning_rate = 0.02
    log = RunLog(tmp_path)
    guard = LossGuard(log=log, documents_at=lambda step: [step, step + 1], **options)
    checkpoint = Checkpoint(tmp_path / "checkpoints", every_steps=2, callbacks=[guard])
    model.fit(data_set(kinds), callbacks=[log, guard, checkpoint], verbose=0)
    return guard, json.loads((tmp_path / "log.json").read_text())["events"]


def test_wrong_steps_are_reported_with_their_text_and_counted(tmp_path):
    kinds = [GOOD] * 60
    kinds[10] = kinds[40] = NOT_FINITE
    kinds[50] = SPIKE
    with pytest.warns(UserWarning) as warned:
        guard, events = fit(kinds, tmp_path)
    assert guard.skipped == 2
    said = [str(w.message) for w in warned if str(w.message).startswith("Step")]
    assert said[0] == "Step 11 (documents 10, 11): a loss or a gradient was not finite, and no update made."
    assert said[1].startswith("Step 41 ") and said[2].startswith("Step 51 (documents 50, 51): the loss was ")
    assert [event["step"] for event in events] == [11, 41, 51] and events[2]["documents"] == [50, 51]
    assert events[0]["loss"] is None and events[2]["loss"] > 1


def test_training_ends_when_it_does_not_recover(tmp_path):
    with (
        pytest.warns(UserWarning),
        pytest.raises(
            FloatingPointError, match=r"Step 28 .*not finite.* 3 steps in a row went wrong. Training has ended"
        ),
    ):
        fit([GOOD] * 22 + [NOT_FINITE, SPIKE, GOOD] + [SPIKE] * 2 + [NOT_FINITE] * 9, tmp_path, patience=3)
    deadline = time.monotonic() + 20
    while 25 not in (saved := checkpoints(tmp_path / "checkpoints")) and time.monotonic() < deadline:
        time.sleep(0.01)  # a thread writes it
    assert list(saved)[-1] == 25  # from before these steps
    with pytest.raises(ValueError, match="patience=0"):
        LossGuard(patience=0)
