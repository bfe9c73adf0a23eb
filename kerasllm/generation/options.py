"""The options of generation: what others call them, and numbers of whatever kind as numbers of Python."""

import operator

_STREAM = "`kerasllm.stream` gives the text piece by piece"
_NOT_OURS = "generation does not compute it, so leave it out"
_ONE_TEXT = "the result is the text alone"
_NEEDS_NONE = "prompts of different lengths need no padding, so leave it out"

# Of transformers' GenerationConfig and pipelines, KerasHub, llama.cpp and the usual servers. What an option of ours is
# called elsewhere, or what is to be done instead.
GENERATION_WORDS = {
    "do_sample": "sampler='random' draws, or any of temperature, top_k, top_p and min_p, and sampler='greedy' does not",
    "num_beams": "`generate` follows one text, and `translate` searches with beams",
    "max_length": "`max_new_tokens` counts the new tokens alone, without the prompt",
    **dict.fromkeys(
        ("max_tokens", "max_output_tokens", "max_gen_len", "max_gen_toks", "n_predict", "num_predict", "length"),
        "max_new_tokens",
    ),
    "min_tokens": "min_new_tokens",
    **dict.fromkeys(("num_return_sequences", "num_samples", "n"), "draw, and give the prompt as often, [prompt] * 3"),
    **dict.fromkeys(("stop_strings", "stop_sequences", "stop_words", "stop_string", "until"), "stop"),
    **dict.fromkeys(("logits_processor", "logits_processors"), "rules"),
    **dict.fromkeys(("guided_regex", "pattern"), "regex"),
    **dict.fromkeys(("guided_json", "response_format", "response_schema", "schema"), "json_schema"),
    **dict.fromkeys(("guided_choice", "choice", "options"), "choices"),
    **dict.fromkeys(("guided_grammar", "lark", "gbnf"), "grammar"),
    "stopping_criteria": "`stop` takes strings that end a text, and `end_ids` token ids",
    **dict.fromkeys(("eos_token_id", "stop_token_ids", "eos_token_ids"), "`end_ids` lists the ids that end a text"),
    **dict.fromkeys(("pad_token_id", "attention_mask", "padding", "padding_side", "padding_mask"), _NEEDS_NONE),
    "bos_token_id": "the tokenizer puts a start token where its model wants one",
    **dict.fromkeys(("streamer", "stream", "streaming"), _STREAM),
    **dict.fromkeys(("random_state", "generator", "random_seed"), "seed"),
    **dict.fromkeys(("temp", "t"), "temperature"),
    **dict.fromkeys(("k", "topk"), "top_k"),
    **dict.fromkeys(("p", "topp", "nucleus"), "top_p"),
    **dict.fromkeys(("repeat_penalty", "rep_pen"), "repetition_penalty"),
    **dict.fromkeys(
        ("frequency_penalty", "presence_penalty"), f"{_NOT_OURS}; `repetition_penalty` makes used tokens rarer too"
    ),
    **dict.fromkeys(("watermarking_config", "watermark_config"), "watermark"),
    **dict.fromkeys(("guidance_scale", "cfg_scale", "cfg"), "guidance"),
    **dict.fromkeys(("negative_prompts", "negative_prompt_ids"), "negative_prompt"),
    "amateur_model": "contrast",
    **dict.fromkeys(("bad_words", "bad_words_ids", "banned_words"), "forbidden"),
    **dict.fromkeys(("logit_bias", "sequence_bias", "token_bias", "biases"), "bias"),
    **dict.fromkeys(("guardrails", "guardrail", "safety_filter", "moderation", "safety_checker"), "filter"),
    "use_cache": "cached",
    **dict.fromkeys(("strip_prompt", "return_full_text"), "the result is the continuation, without the prompt"),
    **dict.fromkeys(
        ("return_dict_in_generate", "return_tensors", "output_scores", "output_logits", "output_attentions"), _ONE_TEXT
    ),
    **dict.fromkeys(("skip_special_tokens", "clean_up_tokenization_spaces"), "special tokens are no part of the text"),
    "chat_template": "that is an option of `chat`",
    **dict.fromkeys(
        (
            *("penalty_alpha", "encoder_no_repeat_ngram_size", "typical_p", "length_penalty"),
            *("force_words_ids", "constraints"),
            *("early_stopping", "num_beam_groups", "diversity_penalty", "epsilon_cutoff", "eta_cutoff"),
            *("prompt_lookup_num_tokens", "assistant_model", "max_time", "dola_layers"),
            *("exponential_decay_length_penalty", "renormalize_logits"),
        ),
        _NOT_OURS,
    ),
}  # fmt: skip

# Options beside those of samplers and of `standard_rules.Rules`; most have become others where a `Decoding` begins.
TEXT_OPTIONS = ("bias", "contrast", "filter", "forbidden", "guidance", "negative_prompt", "watermark")

# What a text to continue is called elsewhere, of those who give one by name.
PROMPT_WORDS = dict.fromkeys(("prompt", "text", "texts", "inputs", "input_ids", "text_inputs"), "prompts")

TRANSLATION_WORDS = {
    "beam_size": "num_beams",
    "beam_width": "num_beams",
    "beams": "num_beams",
    **dict.fromkeys(("num_return_sequences", "nbest", "n_best"), "num_best"),
    **dict.fromkeys(("max_tokens", "max_decoding_length"), "max_new_tokens"),
    "max_length": "`max_new_tokens` counts the tokens of a translation",
    **dict.fromkeys(("tgt_lang", "target_lang", "forced_bos_token_id", "lang"), "target_language"),
    **dict.fromkeys(("src_lang", "source_language"), "the tokenizer is made for the language of the sources"),
    **dict.fromkeys(
        ("do_sample", "sampler", "temperature", "top_k", "top_p", "min_p", "seed"),
        "`translate` searches for the likeliest text and draws nothing",
    ),
    **dict.fromkeys(("pad_token_id", "eos_token_id", "attention_mask"), "the tokenizer knows, so leave it out"),
}


def whole_number(name, value, least):
    """An int of whatever kind (Python's, NumPy's, a scalar tensor) as Python's.

    Raises:
        ValueError: for what is no int, or less than `least`.
    """
    try:
        number = operator.index(value)
    except TypeError as error:
        raise ValueError(f"`{name}` must be an integer, got {value!r}.") from error
    if number < least:
        raise ValueError(f"`{name}` must be at least {least}, got {number}.")
    return number


def real_number(name, value):
    """A number of whatever kind as Python's float.

    Raises:
        ValueError: for what is none.
    """
    try:
        return float(None if isinstance(value, str | bytes) else value)
    except TypeError as error:
        raise ValueError(f"`{name}` must be a number, got {value!r}.") from error
