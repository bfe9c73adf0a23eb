"""The options of layers, and the fields of `TransformerConfig`, by the names that others give them.

Those of Hugging Face's config.json, of nanoGPT, Llama's params.json, KerasHub's backbones and the tutorials of Keras
and TensorFlow. (Whole files of Hugging Face are read by `kerasllm.huggingface`, which knows what each means there.)
"""

import inspect

from kerasllm.words import check_keywords

_OTHERS = {
    "vocab_size": "n_vocab vocab vocabulary_size vocab_len input_vocab_size",
    "num_layers": "n_layer n_layers num_hidden_layers num_decoder_layers decoder_layers num_blocks n_blocks",
    "d_model": "hidden_size n_embd n_embed embed_dim embedding_dim model_dim d_embed dim_model dim emb_dim",
    "num_heads": "nhead n_head n_heads num_attention_heads num_query_heads attention_heads decoder_attention_heads",
    "dff": "intermediate_size intermediate_dim n_inner d_ff ffn_dim ff_dim ffn_hidden_size feed_forward_dim "
    "feedforward_dim dim_feedforward decoder_ffn_dim mlp_dim",
    "max_length": "block_size n_positions n_ctx max_position_embeddings context_length context_size context "
    "max_seq_len max_seq_length max_sequence_length sequence_length seq_len seq_length maxlen max_len",
    "num_kv_heads": "num_key_value_heads n_kv_heads n_kv_head kv_heads",
    "num_layer_groups": "num_hidden_groups num_groups",
    "head_dim": "head_size d_head d_kv key_dim",
    "attention_window": "sliding_window window_size sliding_window_size local_attention",
    "rope_theta": "rope_base rotary_emb_base rope_max_wavelength theta",
    "partial_rotary_factor": "rotary_pct rotary_percentage rope_pct",
    "qk_norm": "use_qk_norm qk_layernorm",
    "qkv_bias": "use_qkv_bias",
    "attention_soft_cap": "attn_logit_softcapping attention_logit_soft_cap",
    "norm_epsilon": "rms_norm_eps layer_norm_eps layer_norm_epsilon layernorm_epsilon norm_eps eps",
    "parallel": "use_parallel_residual parallel_attn parallel_residual",
    "activation": "hidden_act activation_function hidden_activation act_fn",
    "use_bias": "bias",
    "dropout": "dropout_rate hidden_dropout hidden_dropout_prob resid_pdrop resid_dropout embd_pdrop drop_rate rate",
    "attention_dropout": "attn_pdrop attention_probs_dropout_prob attn_dropout",
    "tie_embeddings": "tie_word_embeddings tie_weights weight_tying",
    "logit_soft_cap": "final_logit_softcapping final_logit_soft_cap",
    "num_token_types": "type_vocab_size num_segments",
    "num_encoder_layers": "encoder_layers",
    "decoder_start_id": "decoder_start_token_id",
    "forced_bos_id": "forced_bos_token_id",
    "remat": "gradient_checkpointing use_gradient_checkpointing",
}
OUR_NAMES = {other: ours for ours, others in _OTHERS.items() for other in others.split()} | {
    "hidden_dim": "`d_model` is the width of the model, and `dff` that of the feed-forward layers",
    "causal": "it is the model that is causal (CausalLM, Seq2SeqLM) or not (MaskedLM)",
    "dtype": "give the model dtype=, or keras.config.set_dtype_policy a policy",
    "torch_dtype": "give the model dtype=, or keras.config.set_dtype_policy a policy",
    "pad_token_id": "the tokenizer has the id of padding",
    "bos_token_id": "the tokenizer has the id of the start token",
    "eos_token_id": "the tokenizer has the id of the end token",
}

_OF_LAYERS = ("name", "dtype", "trainable", "autocast", "activity_regularizer", "input_shape", "input_dim")  # Keras'
_VOCABULARY = "the vocabulary is that of an Embedding before it, and of a Dense after it that makes logits"
_CLAUSES = {
    **dict.fromkeys(("vocab_size", "target_vocab_size", "source_vocab_size"), _VOCABULARY),
    "num_layers": "`Transformer` stacks blocks",
    "normalize_first": "norm_placement='pre' normalises first, and 'post' last",
    "norm_first": "norm_placement='pre' normalises first, and 'post' last",
}
_WHOLE_MODELS = "that is for a whole model, such as a CausalLM of a TransformerConfig"

# Of Keras' layer of attention and of torch's: what they are made with, and what calls of them take.
ATTENTION_WORDS = {
    "key_dim": "d_model is the width of the output, and head_dim that of a head where it is not d_model // num_heads",
    "value_dim": "values are as wide as keys, head_dim",
    "output_shape": "d_model is the width of the output",
    "attention_axes": "attention is over axis 1",
    "batch_first": "the batch always comes first",
}
ATTENTION_CALL_WORDS = {
    "query": "the first argument, x, holds the queries",
    "value": "context holds keys and values, and without it they come from x",
    "key": "context holds keys and values, and without it they come from x",
    "use_causal_mask": "MultiHeadAttention(…, causal=True) sees no later tokens",
    "query_mask": "mask=… hides tokens of x",
    "value_mask": "context_mask=… hides tokens of the context",
    "key_mask": "context_mask=… hides tokens of the context",
    "key_padding_mask": "mask=… hides tokens of x, and context_mask=… those of the context, where it is False",
}


def explain_options(options, **clauses):
    """A decorator of a layer: its signature names its options, and unknown ones get a sentence that says what to write.

    Args:
        options: class of `Options` that it takes.
        **clauses: what to do instead of some, as for `words.advice`.
    """

    def decorate(layer):
        parameters = inspect.signature(layer.__init__).parameters.values()
        own = [p for p in parameters if p.name != "self" and p.kind is not p.VAR_KEYWORD]
        taken = [p for p in inspect.signature(options).parameters.values() if p.name not in {p.name for p in own}]
        of_layer = inspect.Parameter("keywords", inspect.Parameter.VAR_KEYWORD)
        known = [*(p.name for p in own + taken), *_OF_LAYERS]
        words = {name: ours if ours in known or " " in ours else _WHOLE_MODELS for name, ours in OUR_NAMES.items()}
        words |= {name: _VOCABULARY for name, ours in OUR_NAMES.items() if ours == "vocab_size"} | _CLAUSES | clauses
        make = layer.__new__

        def checked(cls, *args, **keywords):  # not in __init__, whose signature Keras reads
            if cls is layer:
                check_keywords(keywords, layer.__name__, known, words)
            return make(cls, *args, **keywords)

        layer.__new__ = checked
        layer.__signature__ = inspect.Signature([*own, *taken, of_layer])
        return layer

    return decorate
