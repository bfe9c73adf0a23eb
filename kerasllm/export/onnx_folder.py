"""ONNX: a folder with a graph that generates text step by step, and what onnxruntime-genai is to know of it.

Shapes: B batch, T new tokens, P tokens of the cache, K key/value heads, h head_dim, V vocab.
"""

import os

import keras

from kerasllm import backend
from kerasllm.extras import optional
from kerasllm.files import new_folder, write_json
from kerasllm.models.shapes import context_length, output_width
from kerasllm.models.vision_language_model import check_reads_text_alone
from kerasllm.tokenizers import Tokenizer, as_tokenizer

GRAPH = "model.onnx"
_LONGEST = 4096  # tokens of a text, where the model sets no limit


def onnx(model: keras.Model, tokenizer: Tokenizer, path: str | os.PathLike) -> None:
    """Writes a folder that onnxruntime-genai generates from: a graph in float32, its description and the tokenizer.

    The graph, model.onnx, has the names that onnxruntime-genai and optimum look for:
        input_ids, position_ids int64 (B, T); attention_mask int64 (B, P + T); for each layer past_key_values.0.key and
        past_key_values.0.value float32 (B, K, P, h) -> logits float32 (B, 1, V), those of the last token; for each
        layer present.0.key and present.0.value float32 (B, K, P + T, h).

    Args:
        model: a `CausalLM`, or a chain of layers around a causal Transformer that each act on one token alone.
        tokenizer: its `Tokenizer`.
        path: folder to make. It must not exist, or be empty, and appears whole or not at all.

    Raises:
        FileExistsError: if the folder exists and is not empty; it is not touched.
        ImportError: if tf2onnx is not installed.
        ValueError: for a model that is not decoded with a cache, or where the backend is not TensorFlow.

    Example:
        >>> kerasllm.export.onnx(model, tokenizer, "my-onnx")
        >>> generator = onnxruntime_genai.Model("my-onnx")
    """
    tf2onnx, tokenizer = onnx_package(), as_tokenizer(tokenizer)
    if not backend.IS_TENSORFLOW:
        raise ValueError(
            f"ONNX graphs are made by TensorFlow, and the backend is {keras.backend.backend()}: save the model, and "
            "load and export it with KERAS_BACKEND=tensorflow."
        )
    check_reads_text_alone(model, "A folder for onnxruntime-genai")
    output_width(model)  # Builds a model that has not seen data yet.
    from kerasllm.export.onnx_graph import write_graph

    with new_folder(path) as draft:
        shapes = write_graph(tf2onnx, model, draft / GRAPH)
        write_json(draft / "genai_config.json", _description(model, shapes, tokenizer))
        tokenizer.save(draft)


def onnx_package():
    """The module `tf2onnx`, or ImportError."""
    return optional("tf2onnx.convert", "ONNX graphs are written")


def _description(model, cache_shapes, tokenizer):
    """What onnxruntime-genai reads beside the graph."""
    (K, h), most = cache_shapes[0], context_length(model) or _LONGEST
    ends = tokenizer.end_ids or [output_width(model)]  # one that is never drawn
    pad = tokenizer.pad_id
    return {
        "model": {
            "type": "llama",  # a decoder with these inputs, whatever its architecture
            "bos_token_id": ends[0] if tokenizer.start_id is None else tokenizer.start_id,
            "eos_token_id": ends,
            "pad_token_id": ends[0] if pad is None else pad,
            "vocab_size": output_width(model),
            "context_length": most,
            "decoder": {
                "filename": GRAPH,
                "session_options": {"provider_options": []},
                "hidden_size": K * h,
                "head_size": h,
                "num_attention_heads": K,
                "num_key_value_heads": K,
                "num_hidden_layers": len(cache_shapes),
                "inputs": {
                    **{name: name for name in ("input_ids", "attention_mask", "position_ids")},
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {"max_length": most, "do_sample": False, "past_present_share_buffer": False},
    }
