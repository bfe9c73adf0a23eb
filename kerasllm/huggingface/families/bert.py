"""BERT (Devlin et al. 2019, https://arxiv.org/abs/1810.04805) and what is built like it: RoBERTa, XLM-RoBERTa,
DistilBERT and ERNIE, with their heads for hidden tokens."""

from kerasllm.huggingface.families.family import (
    ACTIVATIONS,
    SIZES,
    Family,
    Row,
    always,
    choice,
    ignored,
    required,
    setting,
)
from kerasllm.huggingface.names import Source, dense, in_blocks, layer_norm, linear, plain
from kerasllm.models import MaskedLM

# RoBERTa counts positions from the one after its padding token's id, so its tables begin with rows that nothing reads.
_PADDING_ID = 1
OFFSET = _PADDING_ID + 1
CLS = "cls.predictions"

_ALWAYS = always(positions="learned", norm_placement="post", embedding_norm=True)
UNTYPED = (
    *SIZES,
    setting("max_length", "max_position_embeddings"),
    setting("norm_epsilon", "layer_norm_eps"),
    choice("activation", "hidden_act", ACTIVATIONS),
    setting("tie_embeddings", "tie_word_embeddings"),
    setting("dropout", "hidden_dropout_prob"),
    setting("attention_dropout", "attention_probs_dropout_prob"),
    ignored("is_causal"),  # Only of decoders, which are refused.
    _ALWAYS,
)
_TYPES = setting("num_token_types", "type_vocab_size", write=lambda n: n or 1)  # There it always has a table.
ROWS = (*UNTYPED, _TYPES)
OFFSET_LENGTH = setting("max_length", "max_position_embeddings", read=lambda n: n - OFFSET, write=lambda n: n + OFFSET)
_ROBERTA = (
    required("pad_token_id", _PADDING_ID),
    required("hidden_act", "gelu"),  # Their head takes that, whatever the blocks take.
    *ROWS,
    OFFSET_LENGTH,
)
_DISTILBERT = (
    setting("vocab_size"),
    setting("num_layers", "n_layers"),
    setting("d_model", "dim"),
    setting("num_heads", "n_heads"),
    setting("dff", "hidden_dim"),
    setting("max_length", "max_position_embeddings"),
    choice("activation", "activation", ACTIVATIONS),
    setting("tie_embeddings", "tie_word_embeddings"),
    setting("dropout"),
    setting("attention_dropout"),
    ignored("sinusoidal_pos_embds"),  # The table is stored either way.
    always(norm_epsilon=1e-12),
    _ALWAYS,
)


def _read_task_types(settings, fields):
    count = settings.take("task_type_vocab_size")
    return {"num_task_types": count if settings.take("use_task_id") else 0}


def _write_task_types(config):
    count = config.num_task_types
    return {"use_task_id": True, "task_type_vocab_size": count} if count else {"use_task_id": False}


_ERNIE = (*ROWS, Row(_read_task_types, _write_task_types))

BLOCK = {
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


def embeddings(root, first_place=0):
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
        **embeddings(f"{root}.embeddings"),
        **in_blocks(BLOCK, "transformer/block_#", f"{root}.encoder.layer.#"),
        **token_head(config, CLS, "transform.dense", "transform.LayerNorm"),
    }


def _roberta_weights(config, _):
    return {
        **embeddings("roberta.embeddings", OFFSET),
        **in_blocks(BLOCK, "transformer/block_#", "roberta.encoder.layer.#"),
        **token_head(config, "lm_head", norm="layer_norm"),
    }


def token_head(config, root, first="dense", norm="LayerNorm"):
    """The bias of the logits has two names, and is as tied as the table."""
    return {
        **dense("head_dense", f"{root}.{first}"),
        **layer_norm("head_norm", f"{root}.{norm}"),
        "output_bias": plain(f"{root}.bias" if config.tie_embeddings else f"{root}.decoder.bias"),
        "token_embedding/reverse_embeddings": linear(f"{root}.decoder"),
    }


def _distilbert_weights(config, _):
    return {
        **embeddings("distilbert.embeddings"),
        **in_blocks(_DISTILBERT_BLOCK, "transformer/block_#", "distilbert.transformer.layer.#"),
        **dense("head_dense", "vocab_transform"),
        **layer_norm("head_norm", "vocab_layer_norm"),
        "output_bias": plain("vocab_projector.bias"),
        "token_embedding/reverse_embeddings": linear("vocab_projector"),
    }


def family(architecture, root, rows, weights, head=None):
    biases, has_types = (f"{head}.decoder.bias", f"{head}.bias") if head else (), _TYPES in rows

    def zeros(config):
        missing = {}
        if has_types and not config.num_token_types:
            missing[f"{root}.embeddings.token_type_embeddings.weight"] = (1, config.embedding_width)
        if head and not config.tie_embeddings:
            missing[biases[1]] = (config.vocab_size,)
        return missing

    return Family(
        architecture,
        MaskedLM,
        rows,
        weights,
        renames=(
            (r"^(?=embeddings\.|embeddings_project\.|encoder\.|transformer\.layer\.)", f"{root}."),
            (r"LayerNorm\.gamma$", "LayerNorm.weight"),
            (r"LayerNorm\.beta$", "LayerNorm.bias"),
        ),
        unused=r"position_ids$|\.pooler\.|^pooler\.|seq_relationship|^sop_classifier\.",
        zeros=zeros,
        output_bias=biases,
        from_weights=("num_token_types",) if has_types else (),  # A table of zeros is none.
    )


FAMILIES = {
    "bert": family("BertForMaskedLM", "bert", ROWS, lambda config, _: _bert_weights(config, "bert"), CLS),
    "roberta": family("RobertaForMaskedLM", "roberta", _ROBERTA, _roberta_weights, "lm_head"),
    "xlm-roberta": family("XLMRobertaForMaskedLM", "roberta", _ROBERTA, _roberta_weights, "lm_head"),
    "distilbert": family("DistilBertForMaskedLM", "distilbert", _DISTILBERT, _distilbert_weights),
    "ernie": family("ErnieForMaskedLM", "ernie", _ERNIE, lambda config, _: _bert_weights(config, "ernie"), CLS),
}
