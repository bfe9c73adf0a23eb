"""A student and a teacher: the loss beside a plain computation, from all logits, chunks and likeliest tokens."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kerasllm
from kerasllm.losses import Distillation
from kerasllm.models import CausalLM, TransformerConfig

SIZES = {"vocab_size": 37, "num_layers": 1, "d_model": 16, "num_heads": 2, "dff": 24, "max_length": 16}
DRAW = np.random.default_rng(1)
IDS, LABELS = DRAW.integers(0, 37, (2, 6, 11)).astype("int32")
WEIGHT = (np.arange(11) < np.array([11, 1, 5, 0, 9, 2])[:, None]).astype("float32")


def make(seed, **options):
    model = CausalLM(TransformerConfig(**{**SIZES, **options}))
    draw = np.random.default_rng(seed)
    model.set_weights([draw.normal(scale=0.5, size=weight.shape) for weight in model.get_weights()])
    return model


def plain(student, teacher_logits, temperature, direction, mix):
    """The loss and its gradients by TensorFlow alone."""
    with tf.GradientTape() as tape:
        logits = student(IDS)
        cross_entropy = -tf.gather(tf.nn.log_softmax(logits), LABELS, batch_dims=2)
        of_student, of_teacher = (tf.nn.log_softmax(values / temperature) for values in (logits, teacher_logits))
        if direction == "reverse":
            of_student, of_teacher = of_teacher, of_student
        share = tf.exp(of_teacher)
        divergence = tf.reduce_sum(tf.where(share > 0, share * (of_teacher - of_student), 0.0), axis=-1)
        parts = [tf.reduce_sum(values * WEIGHT) / WEIGHT.sum() for values in (cross_entropy, divergence)]
        loss = (1 - mix) * parts[0] + mix * temperature**2 * parts[1]
    gradients = tape.gradient(loss, [weight.value for weight in student.trainable_variables])
    figures = {"loss": loss, "cross_entropy": parts[0], "divergence": parts[1]}
    return {name: float(value) for name, value in figures.items()}, [tf.convert_to_tensor(g) for g in gradients]


@pytest.mark.parametrize(
    ("direction", "chunk_size", "top_k"),
    [
        ("forward", 7, None),
        ("reverse", 7, None),
        pytest.param("forward", None, None, marks=pytest.mark.soak),
        ("forward", 7, 5),
    ],
)
def test_the_loss_and_its_gradients_are_those_of_a_plain_computation(direction, chunk_size, top_k):
    teacher, student = make(1), make(2)
    data = tf.data.Dataset.from_tensor_slices((IDS, LABELS, WEIGHT)).batch(6)
    teacher_logits = teacher(IDS)
    if top_k:
        data = kerasllm.data.with_teacher(data, teacher, top_k)
        least = tf.sort(teacher_logits, direction="DESCENDING")[..., top_k - 1 : top_k]
        teacher_logits = tf.where(teacher_logits >= least, teacher_logits, -1e9)
    wanted, gradients = plain(student, teacher_logits, 2.0, direction, 0.3)
    loss = Distillation(2.0, direction, 0.3, None if top_k else teacher, chunk_size)
    before = [np.array(weight.value) for weight in student.trainable_variables]
    eager = direction == "reverse" or bool(top_k)
    student.compile(keras.optimizers.SGD(1.0), loss, micro_batches=2 if chunk_size else 1, run_eagerly=eager)
    history = student.fit(data, shuffle=False, verbose=0).history
    tolerance = 1e-3 if top_k else 1e-5  # the teacher's are kept in float16
    assert {name: values[0] for name, values in history.items()} == pytest.approx(wanted, rel=tolerance)
    for weight, old, gradient in zip(student.trainable_variables, before, gradients, strict=True):
        moved, gradient = old - np.array(weight.value), np.array(gradient)
        assert np.linalg.norm(moved - gradient) <= tolerance * np.linalg.norm(gradient) + 1e-6


def test_what_cannot_be_distilled_is_said(tmp_path):
    student, data = make(2), tf.data.Dataset.from_tensor_slices((IDS, LABELS, WEIGHT)).batch(6)
    for loss, message in (
        (Distillation(), "Distillation needs a teacher"),
        (Distillation(teacher=make(1, vocab_size=38)), "a vocabulary of 38 and the student one of 37"),
    ):
        student.compile("sgd", loss)
        with pytest.raises(ValueError, match=message):
            student.fit(data, shuffle=False, verbose=0)
    made = kerasllm.data.with_teacher(data, make(1), 3, tmp_path / "teacher")
    student.compile("sgd", Distillation(direction="reverse"))
    with pytest.raises(ValueError, match="reads what the teacher says of all tokens"):
        student.fit(made, shuffle=False, verbose=0)
    with pytest.raises(ValueError, match="is of another teacher than these"):
        kerasllm.data.with_teacher(data, make(3), 3, tmp_path / "teacher")
    with pytest.raises(ValueError, match="`mix` must be from 0 to 1, got 2"):
        Distillation(mix=2)


@pytest.mark.soak
def test_a_student_learns_more_from_a_teacher_than_from_the_same_steps_of_hard_labels(shared_data):
    text = (shared_data / "tinyshakespeare" / "input.txt").read_text()
    training, held_out = text[: int(0.9 * len(text))], text[int(0.9 * len(text)) :][:50_000]
    tokenizer = kerasllm.tokenizers.Tokenizer.train([training], kind="char", progress=False)
    valid = kerasllm.data.causal_lm_dataset([held_out], tokenizer, 128, 32, shuffle=False, progress=False)

    def trained(num_layers, d_model, text, steps, loss, seed):
        keras.utils.set_random_seed(seed)
        sizes = {"num_layers": num_layers, "d_model": d_model, "num_heads": 4, "dff": 4 * d_model, "max_length": 128}
        options = {"norm": "rms", "activation": "relu_squared", "use_bias": False}
        model = CausalLM(TransformerConfig(vocab_size=tokenizer.vocab_size, **sizes, **options))
        data = kerasllm.data.causal_lm_dataset([text], tokenizer, 128, 16, seed, epochs=100, progress=False)
        schedule = kerasllm.optimizers.warmup_cosine(3e-3, 20, steps)
        model.compile(kerasllm.optimizers.AdamW(schedule), loss)
        model.fit(data.take(steps), verbose=0)
        model.compile()
        return model, model.evaluate(valid, verbose=0, return_dict=True)["loss"]

    teacher, _ = trained(3, 128, training, 350, None, 9)
    for seed in range(3):
        losses = [
            trained(1, 64, training[:100_000], 200, loss, seed)[1] for loss in (None, Distillation(teacher=teacher))
        ]
        print(f"seed {seed}: hard labels {losses[0]:.4f}, distilled {losses[1]:.4f}")
        assert losses[1] < losses[0] - 0.03
