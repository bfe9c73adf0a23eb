"""How far what a student says of the next token is from what a teacher says.

Shapes: N tokens, V vocab, K likeliest tokens of the teacher.
"""

from keras import ops

from kerasllm import backend


def log_softmax(logits, temperature):
    """Log-probabilities at a temperature, float32 like the logits."""
    scaled = ops.cast(logits, "float32") / temperature
    return scaled - ops.logsumexp(scaled, axis=-1, keepdims=True)


def distilled_values(labels, logits, teacher, temperature, direction):
    """The log-probability of each label, and the divergence from a teacher at that token.

    Args:
        labels: int (N,).
        logits: float (N, V), of the student.
        teacher: float (N, V), its logits; or a pair of its likeliest tokens, int (N, K), and their log-probabilities,
            float (N, K), which are all that it says then.
        temperature: float, by which the logits of both are divided for the divergence.
        direction: "forward", of the teacher from the student, or "reverse".

    Returns:
        float32 (2, N), and a function from slopes (2, N) to the gradient by the logits, float32 (N, V).
    """
    student, plain = log_softmax(logits, temperature), log_softmax(logits, 1.0)
    log_prob = ops.take_along_axis(plain, labels[:, None], axis=1)[:, 0]
    if isinstance(teacher, tuple):
        divergence, gradient = _from_likeliest(student, *teacher, temperature)
    else:
        divergence, gradient = _from_all(student, log_softmax(teacher, temperature), direction)

    def by_logits(slopes):
        slope = (gradient() * (slopes[1] / temperature)[:, None]) - ops.exp(plain) * slopes[0][:, None]
        return backend.add_at(slope, labels, slopes[0])

    return ops.stack([log_prob, divergence]), by_logits


def _from_all(student, teacher, direction):
    if direction == "forward":
        target = ops.exp(teacher)
        return ops.sum(target * (teacher - student), axis=-1), lambda: ops.exp(student) - target
    share = ops.exp(student)
    distance = student - teacher
    divergence = ops.sum(share * distance, axis=-1)
    return divergence, lambda: share * (distance - divergence[:, None])


def _from_likeliest(student, ids, log_probs, temperature):
    teacher = log_softmax(log_probs, temperature)  # as if there were no other tokens
    target = ops.exp(teacher)
    divergence = ops.sum(target * (teacher - ops.take_along_axis(student, ids, axis=1)), axis=-1)

    def gradient():
        result = ops.exp(student)
        for k in range(ids.shape[1]):
            result = backend.add_at(result, ids[:, k], -target[:, k])
        return result

    return divergence, gradient
