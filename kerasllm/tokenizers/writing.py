"""Writing a tokenizer's folder, in Hugging Face's format."""

import json

from kerasllm.files import replacing
from kerasllm.tokenizers.token_roles import CONFIG_KEYS
from kerasllm.tokenizers.tokenizer_json import SAVED_HERE


def write_folder(tokenizer, folder):
    """Writes what `Tokenizer.save` says.

    Raises:
        FileExistsError: where the folder already holds a tokenizer.
    """
    contents = {
        "tokenizer_config.json": json.dumps(_config(tokenizer), indent=2, ensure_ascii=False),
        "tokenizer.json": tokenizer.engine.to_str(pretty=True),
    }
    for name in contents:
        if (folder / name).exists():
            raise FileExistsError(f"{folder / name} exists already and is not overwritten: choose another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        with replacing(folder / name) as draft:
            draft.write_text(content, encoding="utf-8")


def _config(tokenizer):
    named = {CONFIG_KEYS[role]: token for role, token in tokenizer.special_tokens.items()}
    if tokenizer.mask_id is not None:  # BERT and its kind call start and end otherwise
        named |= {"cls_token": named["bos_token"], "sep_token": named["eos_token"]}
    if tokenizer.unknown_id is not None:
        named["unk_token"] = tokenizer.engine.id_to_token(tokenizer.unknown_id)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **SAVED_HERE, **named}
    if tokenizer.end_ids not in ([], [tokenizer.end_id]):
        config["end_ids"] = tokenizer.end_ids
    if tokenizer.chat_template is not None:
        config["chat_template"] = tokenizer.chat_template
    return config
