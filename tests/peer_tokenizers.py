"""Our tokenizers beside those of transformers."""

import pytest
import tokenizer_folders as folders

from kerasllm.tokenizers import Tokenizer

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install kerasllm[parity]")

_families = transformers.models
MBART = _families.mbart.tokenization_mbart.FAIRSEQ_LANGUAGE_CODES
MBART50 = _families.mbart50.tokenization_mbart50.FAIRSEQ_LANGUAGE_CODES
NLLB = _families.nllb.tokenization_nllb.FAIRSEQ_LANGUAGE_CODES
M2M100 = [f"__{code}__" for code in _families.m2m_100.tokenization_m2m_100.FAIRSEQ_LANGUAGE_CODES["m2m100"]]


def check(folder, texts=None, **settings):
    """That ours and transformers' AutoTokenizer read a folder alike: texts, and special tokens."""
    texts = folders.texts() if texts is None else texts
    theirs, ours = transformers.AutoTokenizer.from_pretrained(folder), Tokenizer.load(folder)
    expected = theirs(texts, return_attention_mask=False, return_token_type_ids=False)["input_ids"]
    found = ours.encode_batch(texts, parse_special=True)
    wrong = [index for index in range(len(texts)) if found[index] != expected[index]]
    if wrong:
        index = min(wrong, key=lambda index: len(texts[index]))
        tokens = theirs.convert_ids_to_tokens(expected[index]), [*map(ours.engine.id_to_token, found[index])]
        raise AssertionError(f"{settings}: {len(wrong)} texts, of these {texts[index]!r}: {tokens}")
    for role, name in (("pad_id", "pad"), ("start_id", "bos"), ("end_id", "eos"), ("mask_id", "mask")):
        their_id = getattr(theirs, f"{name}_token_id")
        assert their_id is None or getattr(ours, role) == their_id, (settings, role)
    added = [token for token in ours.engine.get_added_tokens_decoder().values() if token.special]
    plain = [i for i in range(0, len(texts), 7) if not any(token.content in texts[i] for token in added)]
    assert ours.encode_batch([texts[i] for i in plain]) == [expected[i] for i in plain]
    return theirs, ours
