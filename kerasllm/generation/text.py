"""Text to more text: prompts are encoded, continued by `decoding.py`, and decoded again by `text_stream.py`."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras

from kerasllm.generation.constraints.asked import take_constraint
from kerasllm.generation.contrast import with_guidance
from kerasllm.generation.decoding import Decoding
from kerasllm.generation.held_back import Filter, HeldBack, checked_filter
from kerasllm.generation.options import PROMPT_WORDS
from kerasllm.generation.own_rules import with_rules
from kerasllm.generation.prompts import as_prompts, encode_prompt
from kerasllm.generation.settings import rule_options
from kerasllm.generation.text_stream import TextStream, stop_strings
from kerasllm.tokenizers import Tokenizer, as_tokenizer
from kerasllm.words import explain_keywords

STEPS_BETWEEN_STOP_CHECKS = 16
SECONDS_BETWEEN_PIECES = 0.05


@explain_keywords(PROMPT_WORDS)
def generate(
    model: keras.Model,
    tokenizer: Tokenizer,
    prompts: str | Sequence[int] | Mapping[str, Any] | Sequence[str | Sequence[int] | Mapping[str, Any]],
    max_new_tokens: int | None = None,
    *,
    stop: str | Sequence[str] | None = None,
    filter: Filter | None = None,
    **options: Any,
) -> str | list[str]:
    """Continues a prompt, or several at once.

    Args:
        model: a `CausalLM`, or any causal Keras model from token ids (B, T) to logits (B, T, V), such as the
            documented Sequential.
        tokenizer: the model's `Tokenizer`.
        prompts: str or list of str, of any lengths; bytes and strings of NumPy and TensorFlow are read as such.
            Special tokens in them are plain text. Or a list of int, token ids to continue as they are, or several. Or,
            for a model that reads more than tokens, a dict of "text" or "token_ids" and its other inputs, or several:
            see `generate_ids`.
        max_new_tokens: int; None means up to 256, within the model's context or the length it was trained on.
        stop: str or list of str. Text ends before the one that is complete first.
        filter: a `kerasllm.safety.Filter`, which judges the prompt and each sentence of the text before it is given.
            Where it refuses one, its answer stands in the place of that and of all that would follow.
        **options:
            min_new_tokens: int, default 0. The end token is not drawn before.
            sampler: "greedy", "random", "top_k", "top_p", "min_p", a callable (logits (B, V), seed) -> ids (B,), or a
                keras_nlp Greedy, Random, TopK or TopP sampler, read for its settings. By default "random" where one of
                the settings that follow is given, and else "greedy".
            temperature, top_k, top_p, min_p: settings of a draw, which combine. Temperature 0 is greedy.
            repetition_penalty, no_repeat_ngram_size, min_length, suppress_tokens, begin_suppress_tokens: see
                `standard_rules.Rules`. What is not given is that of `model.generation_settings`, which a checkpoint of
                Hugging Face may bring; all are off by default.
            rules: list of `LogitsRule`, rules of your own; or a list of such lists, one for each prompt. They come
                behind penalties, and before what rules tokens out.
            seed: int. The same seed draws the same text.
            regex: str, a regular expression that the text matches as a whole, as `re.fullmatch` does, without
                look-around and back-references; or
            choices: list of str, one of which the text is; or
            json_schema: dict (or JSON, or a class of Pydantic's), a schema of JSON that the text meets; or
            grammar: str, a grammar in the language of Lark, as llguidance reads it, whose `start` the text is.
            finish: "length" (default) cuts such a text at `max_new_tokens`; with "valid" it ends by then as it should.
            prefix: from `read_prefix`, a beginning that prompts share, which is then not read again; for a chat that
                goes on, a `Conversation`.
            draft: "lookup", which guesses what stood after the same tokens before, or a smaller `CausalLM` of the same
                vocabulary. Several tokens are then made at once where guesses are right; the text is the same. Several
                prompts are continued one after another.
            bias: dict from token ids, tuples of ids or texts to floats, which are added to the logit of the token, or
                of the last of several behind the others. Texts are meant at a beginning and behind a space.
            forbidden: list of words that the text does not have, in whatever case and by whatever tokens they are
                written: whole words, so that "cat" does not rule "category" out.
            guidance: float, more than 1. What the prompt makes likely, and not the negative prompt too, becomes
                likelier (classifier-free guidance). That is `negative_prompt`, a text, token ids or one for each
                prompt; by default the last token of each.
            contrast: a smaller `CausalLM` of the same vocabulary, or a `Contrast` with one. What that expects too
                becomes rarer. Or `Experts` or `SelfDebias`, which see.
            watermark: a `GreenList` or `SynthID`, or their settings as transformers' configs and their dicts name them:
                a mark in the text that `kerasllm.safety.detect` finds. The text is to be drawn, not greedy, and long.
            cached: bool. None (default) keeps a key/value cache where that is safe; the text is the same.

    Returns:
        str, or list of str: the continuations, without the prompts. They end at the tokenizer's end token, at a stop
        string or at `max_new_tokens`.

    Raises:
        TypeError: if something is of the wrong type, or an option is unknown.
        ValueError: if a prompt is too long, an option out of its range, or the model not causal; if its logits are not
            finite; if a text cannot be what is asked for.
        ImportError: where outlines-core, which reads regular expressions, or llguidance, which reads schemas and
            grammars, is not installed (pip install kerasllm[constraints]).

    Example:
        >>> kerasllm.generate(model, tokenizer, "Once upon a time", max_new_tokens=50, temperature=0.8, seed=1)
        >>> kerasllm.generate(model, tokenizer, "It happened on ", regex=r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
    """
    (several, is_one), tokenizer = as_prompts(prompts), as_tokenizer(tokenizer)
    if not several:
        return []
    inputs = [encode_prompt(tokenizer, prompt) for prompt in several]
    stop, filter = stop_strings(stop), checked_filter(filter)
    decoding = start_decoding(model, tokenizer, inputs, max_new_tokens, options)
    streams = [
        TextStream(tokenizer, row["token_ids"], stop, _held_back(filter, tokenizer, prompt))
        for prompt, row in zip(several, inputs, strict=True)
    ]
    texts = [text_stream.opening for text_stream in streams]
    for row, text_stream in enumerate(streams):
        if text_stream.stopped:
            decoding.end(row)
    is_unfinished = not all(text_stream.stopped for text_stream in streams)
    while is_unfinished:
        is_unfinished = decoding.run(STEPS_BETWEEN_STOP_CHECKS if stop or filter else decoding.max_new_tokens)
        for row, (text_stream, new_ids) in enumerate(zip(streams, decoding.new_ids(), strict=True)):
            texts[row] += text_stream.read(new_ids, is_last=not is_unfinished)
            if text_stream.stopped:
                decoding.end(row)
    return texts[0] if is_one else texts


def stream(
    model: keras.Model,
    tokenizer: Tokenizer,
    prompt: str | Sequence[int] | Mapping[str, Any],
    max_new_tokens: int | None = None,
    *,
    stop: str | Sequence[str] | None = None,
    filter: Filter | None = None,
    **options: Any,
) -> Iterator[str]:
    """Continues a prompt piece by piece; the pieces joined are what `generate` returns.

    Args:
        model, tokenizer, max_new_tokens, stop, filter, **options: see `generate`.
        prompt: str, or list of int, token ids, or dict of inputs.

    Returns:
        iterator of str. Characters of several tokens, and what may become a stop string, are held back until they
        are whole; with a filter, sentences until they are judged.

    Example:
        >>> for piece in kerasllm.stream(model, tokenizer, "Once upon a time"):
        ...     print(piece, end="", flush=True)
    """
    (prompts, is_one), tokenizer = as_prompts(prompt), as_tokenizer(tokenizer)
    if not is_one:
        raise TypeError(f"`stream` continues one prompt, got a list of {len(prompts)}: `generate` takes several.")
    inputs, filter = encode_prompt(tokenizer, prompts[0]), checked_filter(filter)
    # Made here and not in the generator, so that a wrong option is reported by the call itself.
    decoding = start_decoding(model, tokenizer, [inputs], max_new_tokens, options)
    held_back = _held_back(filter, tokenizer, prompts[0])
    return pieces(decoding, TextStream(tokenizer, inputs["token_ids"], stop_strings(stop), held_back))


def _held_back(filter, tokenizer, prompt):
    """The `HeldBack` of what follows a prompt from `as_prompts`; None without a filter."""
    if filter is None:
        return None
    text = prompt["text"] if "text" in prompt else tokenizer.decode(prompt["token_ids"])
    return HeldBack(filter, [{"role": "user", "content": text}])


def pieces(decoding, text_stream):
    """Yields the text that a `Decoding` of one prompt makes, as soon as nothing can change it any more."""
    if text_stream.stopped:
        yield text_stream.opening
        return
    steps, is_unfinished = 1, True
    while is_unfinished:
        began = time.perf_counter()
        is_unfinished = decoding.run(steps)
        if time.perf_counter() - began < SECONDS_BETWEEN_PIECES / 2:
            steps = min(2 * steps, STEPS_BETWEEN_STOP_CHECKS)
        (new_ids,) = decoding.new_ids()
        if piece := text_stream.read(new_ids, is_last=not is_unfinished):
            yield piece
        is_unfinished = is_unfinished and not text_stream.stopped
    decoding.keep()


def start_decoding(model, tokenizer, prompts, max_new_tokens, options):
    """A `Decoding` of prompts (list of dicts of inputs) that ends where the tokenizer's texts end."""
    options = with_guidance(options, len(prompts), lambda prompt: encode_prompt(tokenizer, prompt)["token_ids"])
    options = with_rules(options, model, tokenizer, prompts, max_new_tokens)
    given = {"end_ids": tokenizer.end_ids, "vocab_size": tokenizer.vocab_size, **options}
    given["constraint"] = take_constraint(given, tokenizer)
    options = {**rule_options(model, given["end_ids"]), **given}
    if options.get("draft") is None or len(prompts) == 1:
        return Decoding(model, prompts, max_new_tokens, **options)
    return _OneByOne([Decoding(model, [prompt], max_new_tokens, **options) for prompt in prompts])


class _OneByOne:
    """Several `Decoding`s of one prompt each, as one of all of them."""

    def __init__(self, decodings):
        self._decodings = decodings
        self.max_new_tokens = max(decoding.max_new_tokens for decoding in decodings)

    def run(self, steps):
        return any([decoding.run(steps) for decoding in self._decodings])

    def end(self, row):
        self._decodings[row].end(0)

    def new_ids(self):
        return [decoding.new_ids()[0] for decoding in self._decodings]
