"""A text as a model reads it, and what is asked about it: the logits of which tokens or label, at which positions."""

import dataclasses

import numpy as np

from kerasllm.generation import translate
from kerasllm.generation.classifying import label_names_of
from kerasllm.generation.prompts import as_prompts, encode_prompt
from kerasllm.interpret.recording import as_array
from kerasllm.interpret.shown_tokens import token_texts, visible
from kerasllm.models import CausalLM, MaskedLM, Seq2SeqLM, SequenceClassifier
from kerasllm.models.language_model import LanguageModel
from kerasllm.tokenizers import as_tokenizer
from kerasllm.tokenizers.cutting import encode_whole
from kerasllm.tokenizers.sides import Sides


@dataclasses.dataclass(frozen=True)
class Text:
    """A text as a model reads it.

    Attributes:
        inputs: dict of int arrays (1, T), as in a call of the model; and of pixel values, for one that sees.
        sides: dict from the names of ids among them to what is shown for each, lists of T str.
        tokenizer: Tokenizer of what the model writes, or of its only text.
        begin: int, where the first of the logits is that a target is asked of.
        continuation: list of int, the ids of a target that was given, or written by the model.
    """

    inputs: dict
    sides: dict
    tokenizer: object
    begin: int = 0
    continuation: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Question:
    """Which logits are asked for, K of them.

    Attributes:
        positions: list of K ints, or None for a model that has one row of logits for a text.
        targets, contrasts: lists of K ints, ids of tokens or labels; the second is empty where there are none.
        target_texts, contrast_texts: lists of str, what is shown for them.
        probabilities: list of K floats, those of the targets; empty in regression.
    """

    positions: list | None
    targets: list
    contrasts: list
    target_texts: list
    contrast_texts: list
    probabilities: list


def read(model, tokenizer, text, target=None):
    """A text as a model reads it, with what follows it.

    Args:
        model: a model of `kerasllm.models`.
        tokenizer: its `Tokenizer`, or a pair (source, target).
        text: str or list of int; of a `MaskedLM`, with masks; of a `Seq2SeqLM`, the source.
        target: what follows, str or list of int, or None: for a `Seq2SeqLM`, what it writes. Other models than these
            and `CausalLM` do not read it.

    Returns:
        `Text`.

    Raises:
        TypeError: for other models.
        ValueError: for a text that the model cannot read.
    """
    if isinstance(model, Seq2SeqLM):
        return _read_pair(model, tokenizer, text, target)
    if not isinstance(model, LanguageModel):
        raise TypeError(f"Texts are read by the models of kerasllm.models, got a {type(model).__name__}.")
    tokenizer, more, following = as_tokenizer(tokenizer), {}, []
    if isinstance(model, CausalLM):
        prompt = encode_prompt(tokenizer, as_prompts(text)[0][0])
        ids = prompt.pop("token_ids")
        more = {name: value for name, value in prompt.items() if name == "pixel_values"}
        following = _following(tokenizer, text, ids, target)
    elif isinstance(text, str) and isinstance(model, MaskedLM) and tokenizer.mask_id is not None:
        ids = tokenizer.encode_masked(text)
    elif isinstance(text, str) or isinstance(text[0], str):
        (ids,), types, _ = encode_whole(tokenizer, [text], model.config.max_length)
        more = {"token_type_ids": np.array(types)} if types and model.config.num_token_types else {}
    else:
        ids = list(text)
    all_ids = [*ids, *following[:-1]]
    _check_length(model, all_ids)
    inputs = {"token_ids": np.array([all_ids], "int32"), **more}
    inputs |= _spans(model, inputs, len(ids))
    shown = token_texts(tokenizer, all_ids)
    return Text(inputs, {"token_ids": shown}, tokenizer, len(ids) - 1, following)


def _spans(model, inputs, length):
    """Which tokens see each other both ways, so far as a model that sees says so: in a prompt of that length."""
    if "pixel_values" not in inputs or model.attention == "causal":
        return {}
    if model.sees_prompts_whole:
        spans = np.arange(inputs["token_ids"].shape[1])[None] < length
    else:
        is_image = inputs["token_ids"] == model.image_token_id
        spans = np.cumsum(is_image & ~np.pad(is_image, ((0, 0), (1, 0)))[:, :-1], axis=1) * is_image
    return {"span_ids": spans.astype("int32")}


def _read_pair(model, tokenizer, text, target):
    sides = Sides.of(tokenizer)
    source = next(iter(sides.encode_sources([text])))
    target = translate(model, tokenizer, text) if target is None else target
    beginning = {"decoder_start_id": model.config.decoder_start_id, "forced_bos_id": model.config.forced_bos_id}
    written = list(next(iter(sides.encode_targets([target], **beginning))))
    begin = 0 if model.config.forced_bos_id is None else 1
    _check_length(model, source)
    _check_length(model, written)
    inputs = {"source_ids": np.array([source], "int32"), "target_ids": np.array([written[:-1]], "int32")}
    shown = {
        "source_ids": token_texts(sides.source, source),
        "target_ids": token_texts(sides.target, written[:-1]),
    }
    return Text(inputs, shown, sides.target, begin, written[begin + 1 :])


def _following(tokenizer, text, ids, target):
    """The ids of what follows a text."""
    if target is None:
        return []
    if not isinstance(target, str):
        return [int(token) for token in np.ravel(target)]
    whole = tokenizer.encode(text + target) if isinstance(text, str) else []
    if whole[: len(ids)] == ids and len(whole) > len(ids):
        return whole[len(ids) :]
    return _alone(tokenizer, target)


def _alone(tokenizer, text):
    """The ids of a text without what the tokenizer puts around one."""
    ids = next(iter(tokenizer.encode_stream([text], bare=True))).tolist()
    if not ids:
        raise ValueError(f"The target {text!r} has no token.")
    return ids


def _check_length(model, ids):
    longest = model.config.max_length
    if len(ids) > longest:
        raise ValueError(f"The text has {len(ids)} tokens, and the model takes at most {longest}: shorten it.")


def ask(model, text, target=None, contrast=None):
    """Which logits are asked for.

    Args:
        model, text: see `read`.
        target: of a `SequenceClassifier` a label, str or int; of a `MaskedLM` the token for its mask, str or int; of
            others it is in `text` already. None for the likeliest.
        contrast: likewise, what the target is compared with; of causal models and translations a str or ids, one token
            or as many as the target has. None for nothing.

    Returns:
        `Question`.

    Raises:
        TypeError: for models without logits of tokens or of a text.
        ValueError: for a target that is not possible.
    """
    if isinstance(model, SequenceClassifier):
        return _ask_label(model, text, target, contrast)
    if not isinstance(model, CausalLM | MaskedLM | Seq2SeqLM):
        raise TypeError(
            f"Logits are asked of a CausalLM, MaskedLM, Seq2SeqLM or SequenceClassifier, got a {type(model).__name__}."
        )
    targets, positions = text.continuation, None
    if isinstance(model, MaskedLM):
        masks = np.flatnonzero(text.inputs["token_ids"][0] == text.tokenizer.mask_id)
        if len(masks) != 1:
            mask = text.tokenizer.special_tokens["mask"]
            raise ValueError(f"One mask is explained at a time: write {mask} once in the text, got {len(masks)}.")
        positions, targets = masks.tolist(), [] if target is None else [_one_token(text.tokenizer, target)]
    elif targets:
        positions = [text.begin + number for number in range(len(targets))]
    else:
        positions = [text.begin]
    logits = as_array(model(text.inputs, training=False))[0, positions]
    targets = targets or logits.argmax(axis=-1).tolist()
    if isinstance(model, MaskedLM) and contrast is not None:
        contrasts = [_one_token(text.tokenizer, contrast)]
    else:
        contrasts = _contrasts(text.tokenizer, contrast, len(targets))
    V = logits.shape[-1]
    if outside := [token for token in (*targets, *contrasts) if not 0 <= token < V]:
        raise ValueError(f"The model has tokens from 0 to {V - 1}, got {outside[0]}: is this its tokenizer?")
    shown = (token_texts(text.tokenizer, some) for some in (targets, contrasts))
    shares = _softmax(logits)[np.arange(len(targets)), targets].tolist()
    return Question(positions, targets, contrasts, *shown, shares)


def _softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def _contrasts(tokenizer, contrast, count):
    if contrast is None:
        return []
    ids = _alone(tokenizer, contrast) if isinstance(contrast, str) else [int(token) for token in np.ravel(contrast)]
    if len(ids) not in (1, count):
        raise ValueError(f"`contrast` has one token or as many as the target, {count}, got {len(ids)}.")
    return ids * count if len(ids) == 1 else ids


def _one_token(tokenizer, target):
    if not isinstance(target, str):
        return int(target)
    for text in (target, f" {target}"):
        ids = _alone(tokenizer, text)
        if len(ids) == 1:
            return ids[0]
    raise ValueError(f"What stands for a mask is one token, and {target!r} has {len(ids)}.")


def _ask_label(model, text, target, contrast):
    names = label_names_of(model)

    def label(given):
        if given in names:
            return names.index(given)
        if isinstance(given, int | np.integer) and 0 <= given < len(names):
            return int(given)
        raise ValueError(f"The labels are {', '.join(names)}, got {given!r}.")

    logits = as_array(model(text.inputs, training=False))[0]
    target = int(logits.argmax()) if target is None else target
    targets, contrasts = [label(target)], [] if contrast is None else [label(contrast)]
    shown = ([visible(names[i]) for i in some] for some in (targets, contrasts))
    shares = _softmax(logits) if model.problem == "single_label" else 1 / (1 + np.exp(-logits))
    return Question(
        None, targets, contrasts, *shown, [] if model.problem == "regression" else [float(shares[targets[0]])]
    )
