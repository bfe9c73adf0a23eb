"""The options of data sets by the names that others give them: of transformers' collators, nanoGPT and Keras."""

_OTHERS = {
    "seq_len": "block_size context_length context_size context max_length max_len maxlen sequence_length seq_length "
    "max_seq_len max_seq_length window_size length chunk_size",
    "batch_size": "batch train_batch_size per_device_train_batch_size micro_batch_size",
    "seed": "random_state data_seed",
    "epochs": "num_epochs num_train_epochs repeat",
    "start_step": "skip skip_batches initial_step",
    "packed": "packing pack",
    "mask_share": "mlm_probability mask_prob mask_probability mask_selection_rate mask_rate",
}
_CLAUSES = {
    "stride": "windows stand end to end, and each epoch cuts at other places",
    "drop_remainder": "every batch is whole",
    "num_workers": "tf.data reads ahead by itself",
    "mlm": "`causal_lm_dataset` and `masked_lm_dataset` are two functions",
}
WINDOW_WORDS = {other: ours for ours, others in _OTHERS.items() for other in others.split()} | _CLAUSES
PAIR_WORDS = WINDOW_WORDS | {
    "batch_size": "`batch_tokens` is the most tokens of one side in a batch",
    "seq_len": "max_length",
    "max_source_length": "max_length",
    "max_target_length": "max_length",
    **dict.fromkeys(("max_tokens", "tokens_per_batch"), "batch_tokens"),
}
CHAT_WORDS = WINDOW_WORDS | {
    "messages": "conversations",
    "tools": 'template_variables={"tools": …}',
    **dict.fromkeys(("assistant_only_loss", "train_on_responses_only", "completion_only_loss"), "answers alone count"),
    "max_prompt_length": "conversations longer than seq_len are split at turns",
}
