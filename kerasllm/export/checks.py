"""Parts of the functions of SavedModels: what they refuse, and what they share."""

import tensorflow as tf


def check(condition, message):
    """An op that fails with a message unless all of a condition holds."""
    return tf.debugging.Assert(tf.reduce_all(condition), [message])


def fitting(text, longest_token, longest, message):
    """Texts as they are; refused where they are so long that they cannot be `longest` tokens.

    So a text far too long is not tokenized first.

    Args:
        text: string (B,).
        longest_token: int, the most bytes that a token stands for, or None where that has no limit.
        longest: int, in tokens.
        message: str.
    """
    if longest_token is None:
        return text
    with tf.control_dependencies([check(tf.strings.length(text) <= longest_token * longest, message)]):
        return tf.identity(text)


def traced_once(function, *signature):
    """A function that several functions of a SavedModel call, and that is in its graph once.

    Args:
        function: of tensors.
        *signature: tf.TypeSpecs of its arguments.
    """
    traced = tf.function(function, input_signature=signature, autograph=False)
    return lambda *arguments: traced(*arguments)  # `save` would trace once more each `tf.function` that it finds
