"""Text to more text: prompts are encoded, continued by `decoding.py`, and decoded again."""

import time

from kerasllm.generation.decoding import Decoding
from kerasllm.generation.settings import rule_options
from kerasllm.tokenizers import as_tokenizer

STEPS_BETWEEN_STOP_CHECKS = 16
SECONDS_BETWEEN_PIECES = 0.05


def generate(model, tokenizer, prompts, max_new_tokens=None, *, stop=None, **options):
    """Continues a prompt, or several at once.

    Args:
        model: a `CausalLM`, or any causal Keras model from token ids (B, T) to logits (B, T, V), such as the
            documented Sequential.
        tokenizer: the model's `Tokenizer`.
        prompts: str or list of str, of any lengths. Special tokens in them are plain text.
        max_new_tokens: int; None means up to 256, within the model's context or the length it was trained on.
        stop: str or list of str. Text ends before the first of them.
        **options:
            min_new_tokens: int, default 0. The end token is not drawn before.
            sampler: "greedy" (default), "random", "top_k", "top_p", "min_p", a callable (logits (B, V), seed) -> ids
                (B,), or a keras_nlp Greedy, Random, TopK or TopP sampler, read for its settings.
            temperature, top_k, top_p, min_p: settings of a sampler given by name other than "greedy"; they combine.
            repetition_penalty, no_repeat_ngram_size, min_length, suppress_tokens, begin_suppress_tokens: see
                `rules.Rules`. What is not given is that of `model.generation_settings`, which a checkpoint of Hugging
                Face may bring; all are off by default.
            seed: int. The same seed draws the same text.
            cached: bool. None (default) keeps a key/value cache where that is safe; the text is the same.

    Returns:
        str, or list of str: the continuations, without the prompts. They end at the tokenizer's end token, at a stop
        string or at `max_new_tokens`.

    Raises:
        ValueError: if a prompt is too long, or an option is unknown or out of its range.

    Example:
        >>> kerasllm.generate(model, tokenizer, "Once upon a time", max_new_tokens=50, sampler="top_p", seed=1)
    """
    if isinstance(prompts, str):
        return generate(model, tokenizer, [prompts], max_new_tokens, stop=stop, **options)[0]
    prompts, tokenizer = list(prompts), as_tokenizer(tokenizer)
    if not prompts:
        return []
    prompt_ids = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    stop, decoding = stop_strings(stop), begin(model, tokenizer, prompt_ids, max_new_tokens, options)
    goes_on = True
    while goes_on:
        goes_on = decoding.run(STEPS_BETWEEN_STOP_CHECKS if stop else decoding.max_new_tokens)
        texts = [continuation(tokenizer, *pair) for pair in zip(prompt_ids, decoding.new_ids(), strict=True)]
        for row, text in enumerate(texts):
            if _cut(text, stop) != text:
                decoding.end(row)
    return [_cut(text, stop) for text in texts]


def stream(model, tokenizer, prompt, max_new_tokens=None, *, stop=None, **options):
    """Continues a prompt piece by piece; the pieces joined are what `generate` returns.

    Args:
        model, tokenizer, max_new_tokens, stop, **options: see `generate`.
        prompt: str.

    Returns:
        iterator of str. Characters of several tokens, and what may become a stop string, are held back until they
        are whole.

    Example:
        >>> for piece in kerasllm.stream(model, tokenizer, "Once upon a time"):
        ...     print(piece, end="", flush=True)
    """
    if not isinstance(prompt, str):
        raise TypeError(f"`stream` takes one prompt, a str, got {type(prompt).__name__}.")
    tokenizer = as_tokenizer(tokenizer)
    prompt_ids = encode_prompt(tokenizer, prompt)
    # Made here and not in the generator, so that a wrong option is reported by the call itself.
    return pieces(
        begin(model, tokenizer, [prompt_ids], max_new_tokens, options), tokenizer, prompt_ids, stop_strings(stop)
    )


def pieces(decoding, tokenizer, prompt_ids, stop):
    """Yields the text that a `Decoding` of one prompt makes, as soon as nothing can change it any more."""
    shown, steps, goes_on = "", 1, True
    while goes_on:
        began = time.perf_counter()
        goes_on = decoding.run(steps)
        if time.perf_counter() - began < SECONDS_BETWEEN_PIECES / 2:
            steps = min(2 * steps, STEPS_BETWEEN_STOP_CHECKS)
        text = continuation(tokenizer, prompt_ids, decoding.new_ids()[0])
        whole = _cut(text, stop)
        goes_on = goes_on and whole == text
        ready = _settled(whole, stop) if goes_on else whole
        if len(ready) > len(shown):
            yield ready[len(shown) :]
            shown = ready


def encode_prompt(tokenizer, prompt):
    """Ids of a prompt; an empty one begins after a document's end, as training texts do."""
    if not isinstance(prompt, str):
        raise TypeError(f"A prompt must be a str, got {type(prompt).__name__}.")
    ids = tokenizer.encode(prompt)
    if ids:
        return ids
    begin = tokenizer.end_id if tokenizer.end_id is not None else tokenizer.start_id
    if begin is None:
        raise ValueError("The prompt is empty, and the tokenizer has no end or start token to begin with.")
    return [begin]


def begin(model, tokenizer, prompt_ids, max_new_tokens, options):
    """A `Decoding` of prompts (list of lists of int) that ends where the tokenizer's texts end."""
    given = {"end_ids": tokenizer.end_ids, "vocab_size": tokenizer.vocab_size, **options}
    options = {**rule_options(model, given["end_ids"]), **given}
    return Decoding(model, prompt_ids, max_new_tokens, **options)


def continuation(tokenizer, prompt_ids, new_ids):
    """The text of new ids where they stand: some tokenizers drop a space at the beginning of a text."""
    before = tokenizer.decode(prompt_ids)
    text = tokenizer.decode(prompt_ids + new_ids)
    return text[len(before) :] if text.startswith(before) else tokenizer.decode(new_ids)


def stop_strings(stop):
    """A list of what ends a text, from what a user gives."""
    stop = [stop] if isinstance(stop, str) else list(stop or [])
    if not all(isinstance(string, str) and string for string in stop):
        raise ValueError(f"`stop` must be a non-empty str or a list of them, got {stop!r}.")
    return stop


def _cut(text, stop):
    places = [text.find(string) for string in stop]
    return text[: min((place for place in places if place >= 0), default=len(text))]


def _settled(text, stop):
    """The part of a text that later tokens cannot change or cut off."""
    text = text.rstrip("\ufffd")
    held = 0
    for string in stop:
        held = max([held, *(n for n in range(1, len(string)) if text.endswith(string[:n]))])
    return text[: len(text) - held]
