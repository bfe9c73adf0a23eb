"""BERT (Devlin et al. 2019, https://arxiv.org/abs/1810.04805) and what is built like it: RoBERTa, XLM-RoBERTa,
DistilBERT and ERNIE, with their heads for hidden tokens."""

from kerasllm.huggingface.families.family import Family
from kerasllm.huggingface.names import Source, dense, in_blocks, layer_norm, linear, plain
from kerasllm.huggingface.settings import activation_name, size_settings
from kerasllm.models import MaskedLM

# RoBERTa counts places from the one after its padding token's id, so its tables begin with rows that nothing reads.
_PADDING = 1
_FIRST_PLACE = _PADDING + 1


def _common(settings, **own):
    settings.ignore("is_causal")  # Only of decoders, which are refused.
    return {
        **settings.sizes(),
        "max_length": settings.take("max_position_embeddings"),
        "norm_epsilon": settings.take("layer_norm_eps"),
        "num_token_types": settings.take("type_vocab_size"),
        "activation": settings.activation("hidden_act"),
        "tie_embeddings": settings.take("tie_word_embeddings"),
        "dropout": settings.take("hidden_dropout_prob"),
        "attention_dropout": settings.take("attention_probs_dropout_prob"),
        **_ALWAYS,
        **own,
    }


_ALWAYS = {"positions": "learned", "norm_placement": "post", "embedding_norm": True}


def _roberta_fields(settings):
    settings.only("pad_token_id", _PADDING)
    settings.only("hidden_act", "gelu")  # Their head takes that, whatever the blocks take.
    fields = _common(settings)
    return {**fields, "max_length": fields["max_length"] - _FIRST_PLACE}


def _ernie_fields(settings):
    count = settings.take("task_type_vocab_size")
    return _common(settings, num_task_types=count if settings.take("use_task_id") else 0)


def _distilbert_fields(settings):
    settings.ignore("sinusoidal_pos_embds")  # The table is stored either way.
    return {
        "vocab_size": settings.take("vocab_size"),
        "num_layers": settings.take("n_layers"),
        "d_model": settings.take("dim"),
        "num_heads": settings.take("n_heads"),
        "dff": settings.take("hidden_dim"),
        "max_length": settings.take("max_position_embeddings"),
        "norm_epsilon": 1e-12,
        "activation": settings.activation("activation"),
        "tie_embeddings": settings.take("tie_word_embeddings"),
        "dropout": settings.take("dropout"),
        "attention_dropout": settings.take("attention_dropout"),
        **_ALWAYS,
    }


def _attention_dropout(config):
    return config.dropout if config.attention_dropout is None else config.attention_dropout


def _settings(config, first_place=0):
    return {
        **size_settings(config),
        "max_position_embeddings": config.max_length + first_place,
        "layer_norm_eps": config.norm_epsilon,
        "type_vocab_size": config.num_token_types,
        "hidden_act": activation_name(config.activation),
        "tie_word_embeddings": config.tie_embeddings,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": _attention_dropout(config),
    }


def _ernie_settings(config):
    tasks = {"task_type_vocab_size": config.num_task_types} if config.num_task_types else {}
    return {**_settings(config), "use_task_id": bool(tasks), **tasks}


def _roberta_settings(config):
    return {**_settings(config, _FIRST_PLACE), "pad_token_id": _PADDING}


def _distilbert_settings(config):
    return {
        "vocab_size": config.vocab_size,
        "n_layers": config.num_layers,
        "dim": config.d_model,
        "n_heads": config.num_heads,
        "hidden_dim": config.dff,
        "max_position_embeddings": config.max_length,
        "activation": activation_name(config.activation),
        "tie_word_embeddings": config.tie_embeddings,
        "dropout": config.dropout,
        "attention_dropout": _attention_dropout(config),
    }


_BLOCK = {
    **dense("attention/query_key_value", "attention.self.{}", "query", "key", "value"),
    **dense("attention/output", "attention.output.dense"),
    **layer_norm("attention_norm", "attention.output.LayerNorm"),
    **dense("feed_forward/inner", "intermediate.dense"),
    **dense("feed_forward/outer", "output.dense"),
    **layer_norm("feed_forward_norm", "output.LayerNorm"),
}
_DISTILBERT_BLOCK = {
    **dense("attention/query_key_value", "attention.{}_lin", "q", "k", "v"),
    **dense("attention/output", "attention.out_lin"),
    **layer_norm("attention_norm", "sa_layer_norm"),
    **dense("feed_forward/inner", "ffn.lin1"),
    **dense("feed_forward/outer", "ffn.lin2"),
    **layer_norm("feed_forward_norm", "output_layer_norm"),
}


def _embeddings(root, first_place=0):
    return {
        "token_embedding/embeddings": plain(f"{root}.word_embeddings.weight"),
        "token_type_embedding/embeddings": plain(f"{root}.token_type_embeddings.weight"),
        "task_type_embedding/embeddings": plain(f"{root}.task_type_embeddings.weight"),
        "transformer/position_embedding/embeddings": Source(
            (f"{root}.position_embeddings.weight",), first_row=first_place
        ),
        **layer_norm("transformer/input_norm", f"{root}.LayerNorm"),
    }


def _bert_weights(config, root):
    return {
        **_embeddings(f"{root}.embeddings"),
        **in_blocks(_BLOCK, "transformer/block_#", f"{root}.encoder.layer.#"),
        **dense("head_dense", "cls.predictions.transform.dense"),
        **layer_norm("head_norm", "cls.predictions.transform.LayerNorm"),
        **_output(config, "cls.predictions"),
    }


def _roberta_weights(config, _):
    return {
        **_embeddings("roberta.embeddings", _FIRST_PLACE),
        **in_blocks(_BLOCK, "transformer/block_#", "roberta.encoder.layer.#"),
        **dense("head_dense", "lm_head.dense"),
        **layer_norm("head_norm", "lm_head.layer_norm"),
        **_output(config, "lm_head"),
    }


def _output(config, head):
    """The bias of the logits has two names, and is as tied as the table."""
    return {
        "output_bias": plain(f"{head}.bias" if config.tie_embeddings else f"{head}.decoder.bias"),
        "token_embedding/reverse_embeddings": linear(f"{head}.decoder"),
    }


def _distilbert_weights(config, _):
    return {
        **_embeddings("distilbert.embeddings"),
        **in_blocks(_DISTILBERT_BLOCK, "transformer/block_#", "distilbert.transformer.layer.#"),
        **dense("head_dense", "vocab_transform"),
        **layer_norm("head_norm", "vocab_layer_norm"),
        "output_bias": plain("vocab_projector.bias"),
        "token_embedding/reverse_embeddings": linear("vocab_projector"),
    }


def _family(architecture, root, fields, settings, weights, head=None):
    biases = (f"{head}.decoder.bias", f"{head}.bias") if head else ()
    return Family(
        architecture,
        MaskedLM,
        fields,
        settings,
        weights,
        renames=(
            (r"^(?=embeddings\.|encoder\.layer\.|transformer\.layer\.)", f"{root}."),
            (r"LayerNorm\.gamma$", "LayerNorm.weight"),
            (r"LayerNorm\.beta$", "LayerNorm.bias"),
        ),
        unused=r"position_ids$|\.pooler\.|^pooler\.|seq_relationship",
        zeros=lambda config: {} if config.tie_embeddings or not head else {biases[1]: (config.vocab_size,)},
        output_bias=biases,
    )


_CLS = "cls.predictions"
FAMILIES = {
    "bert": _family(
        "BertForMaskedLM", "bert", _common, _settings, lambda config, _: _bert_weights(config, "bert"), _CLS
    ),
    "roberta": _family(
        "RobertaForMaskedLM", "roberta", _roberta_fields, _roberta_settings, _roberta_weights, "lm_head"
    ),
    "xlm-roberta": _family(
        "XLMRobertaForMaskedLM", "roberta", _roberta_fields, _roberta_settings, _roberta_weights, "lm_head"
    ),
    "distilbert": _family(
        "DistilBertForMaskedLM", "distilbert", _distilbert_fields, _distilbert_settings, _distilbert_weights
    ),
    "ernie": _family(
        "ErnieForMaskedLM",
        "ernie",
        _ernie_fields,
        _ernie_settings,
        lambda config, _: _bert_weights(config, "ernie"),
        _CLS,
    ),
}
