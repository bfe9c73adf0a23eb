"""LiteRT: a model as a graph (.tflite), or with its tokenizer and chat template as what LiteRT-LM runs (.litertlm)."""

import contextlib
import os
import re
import tempfile
from pathlib import Path

import keras

from kerasllm import backend
from kerasllm.extras import optional
from kerasllm.files import replacing
from kerasllm.models.shapes import context_length, output_width
from kerasllm.models.vision_language_model import check_reads_text_alone
from kerasllm.tokenizers import Tokenizer, as_tokenizer

SUFFIXES = (".litertlm", ".tflite")
QUANTIZED = ("int8", "int4")
# LiteRT-LM hands templates the parts of a message where most expect its text; and knows no tags of training.
_PLAIN_MESSAGES = """
{%- set plain = namespace(messages=[]) -%}
{%- for message in messages -%}
{%- if message.content is sequence and message.content is not string -%}
{%- set message = dict(message, content=message.content | map(attribute="text") | join) -%}
{%- endif -%}
{%- set plain.messages = plain.messages + [message] -%}
{%- endfor -%}
{%- set messages = plain.messages -%}
"""
_TRAINING_TAGS = r"\{%-?\s*(end)?generation\s*-?%\}"
LONGEST = 2048  # Tokens of a text, unless asked otherwise: all places of the cache are read for each token.


def litert(
    model: keras.Model,
    tokenizer: Tokenizer,
    path: str | os.PathLike,
    quantize: str | None = None,
    *,
    context: int | None = None,
) -> None:
    """Writes a file that LiteRT-LM runs on phones and desktops: the model's graph, its tokenizer and its chat template.

    The graph has a signature for pieces of prompts and one for single tokens, with the cache of keys and values as
    inputs and outputs, see `tflite.tflite_graph`. In float32 it writes what `kerasllm.generate` writes.

    Args:
        model: a `CausalLM`, or a chain of layers around a causal Transformer that each act on one token alone.
        tokenizer: its `Tokenizer`.
        path: file to make, name.litertlm, or name.tflite for the graph alone. It must not exist, and appears whole or
            not at all.
        quantize: None for float32; "int8", matrices with a scale for each output; or "int4", in blocks of 32 with a
            scale each. What they are multiplied with is brought to 8 bits as it comes.
        context: int, the most tokens of prompt and continuation together; None is what the model takes, up to 2,048.

    Raises:
        FileExistsError: if `path` exists; it is not touched.
        ImportError: if litert-lm-builder, or for `quantize` litert-quantizer, is not installed.
        ValueError: for another suffix, another `quantize`, or a longer context than the model takes; for a model that
            is not decoded with a cache; where the backend is not TensorFlow; or if the graph's logits, before they are
            quantized, are others than the model's.

    Example:
        >>> kerasllm.export.litert(model, tokenizer, "assistant.litertlm", quantize="int8")
        >>> engine = litert_lm.Engine("assistant.litertlm")
    """
    path, tokenizer = Path(path), as_tokenizer(tokenizer)
    check_reads_text_alone(model, "A LiteRT file")
    output_width(model)  # Builds a model that has not seen data yet.
    context = _checked(model, path, quantize, context)
    package = builder_package() if path.suffix == SUFFIXES[0] else None
    quantizer = quantizer_package() if quantize else None
    from kerasllm.export.running import check_graph
    from kerasllm.export.tflite import tflite_graph

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder, replacing(path) as draft:
        graph = Path(folder, "graph.tflite") if package else draft
        graph.write_bytes(tflite_graph(model, context))
        check_graph(model, graph)
        if quantize:
            _quantize(quantizer, graph, quantize)
        if package:
            Path(folder, "metadata").write_bytes(_metadata(model, tokenizer, context).SerializeToString())
            Path(folder, "tokenizer.json").write_text(tokenizer.engine.to_str(), encoding="utf-8")
            _pack(package, Path(folder), draft)


def builder_package():
    """The module `litert_lm_builder`, or ImportError."""
    return optional("litert_lm_builder", "Files of LiteRT-LM are written")


def quantizer_package():
    """The module `litert_quantizer`, or ImportError."""
    return optional("litert_quantizer.quantizer litert_quantizer.recipe", "Graphs of LiteRT are quantized")


def _checked(model, path, quantize, context):
    """The context; refuses what cannot be written, or not there."""
    if not backend.IS_TENSORFLOW:
        raise ValueError(
            f"Graphs of LiteRT are made by TensorFlow, and the backend is {keras.backend.backend()}: save the model, "
            "and load and export it with KERAS_BACKEND=tensorflow."
        )
    if path.suffix not in SUFFIXES:
        raise ValueError(f"LiteRT's files are named …{' or …'.join(SUFFIXES)}, by which they are known, got {path}.")
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists, and is left as it is: name a file that does not, or move it away.")
    if quantize not in (None, *QUANTIZED):
        raise ValueError(f"`quantize` is one of {', '.join(QUANTIZED)} or None for LiteRT, got {quantize!r}.")
    most = context_length(model)
    if context is None:
        return min(most or LONGEST, LONGEST)
    if context < 2 or context > (most or context):
        raise ValueError(f"`context` must be between 2 and {most or 'what fits the memory'}, got {context}.")
    return context


def _quantize(package, graph, kind):
    recipes = {"int8": package.recipe.dynamic_wi8c_afp32, "int4": package.recipe.dynamic_wi4b32_afp32}
    recipe = recipes[kind]()
    quantizer = package.quantizer.Quantizer(str(graph), recipe)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        quantized = quantizer.quantize().quantized_model
    graph.write_bytes(quantized)


def _metadata(model, tokenizer, context):
    """What LiteRT-LM is to know of the model: a message of its own format."""
    from litert_lm_builder.runtime.proto.llm_metadata_pb2 import LlmMetadata

    metadata = LlmMetadata(max_num_tokens=context)
    metadata.llm_model_type.generic_model.SetInParent()
    for token in tokenizer.end_ids or [output_width(model)]:  # One must be there, and no text has this one.
        metadata.stop_tokens.add().token_ids.ids.append(token)
    first = tokenizer.encode("a")[:1]
    if first and first[0] == tokenizer.start_id:  # LiteRT-LM reads the tokenizer without what it puts around texts.
        metadata.start_token.token_ids.ids.append(first[0])
    if tokenizer.chat_template is not None:
        metadata.jinja_prompt_template = _PLAIN_MESSAGES + re.sub(_TRAINING_TAGS, "", tokenizer.chat_template)
    return metadata


def _pack(package, folder, path):
    builder = package.LitertLmFileBuilder()
    builder.add_tflite_model(str(folder / "graph.tflite"), package.TfLiteModelType.PREFILL_DECODE)
    builder.add_llm_metadata(str(folder / "metadata"))
    builder.add_hf_tokenizer(str(folder / "tokenizer.json"))
    with open(path, "wb") as file:
        builder.build(file)
