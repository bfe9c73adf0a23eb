"""Real settings of published tokenizers, each beside a small vocabulary of its kind: ids and special ids as
AutoTokenizer gives them."""

import json
import os
import warnings
from pathlib import Path

import pytest
import test_tokenizer_settings as recorded
import tokenizer_folders as folders
from peer_tokenizers import MBART, MBART50, NLLB, check, transformers

from kerasllm.tokenizers.classes import class_of

pytestmark = pytest.mark.parity

TESTS = Path(__file__).parents[1]
DATA = Path(os.environ.get("KERASLLM_DATA", TESTS.parents[1] / "shared" / "data")) / "hf_configs"
LIST = TESTS / "fixtures" / "published_settings.jsonl"
SENTINELS = [f"<extra_id_{number}>" for number in reversed(range(100))]
SMALL = {
    None: folders.byte_level,
    **dict.fromkeys(("GPT2Tokenizer", "GPTNeoXTokenizer", "Qwen2Tokenizer"), folders.byte_level),
    **dict.fromkeys(("RobertaTokenizer", "BartTokenizer"), folders.byte_level),
    **dict.fromkeys(("BertTokenizer", "DistilBertTokenizer"), folders.word_pieces),
    "MPNetTokenizer": lambda: folders.word_pieces(("<s>", "<pad>", "</s>", "[UNK]", "<mask>")),
    **dict.fromkeys(("LlamaTokenizer", "CodeLlamaTokenizer"), folders.underscored),
    "GemmaTokenizer": lambda: folders.underscored(("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")),
    "T5Tokenizer": lambda: folders.unigram(("<pad>", "</s>", "<unk>"), tuple(SENTINELS)),
    "XLMRobertaTokenizer": folders.unigram,
    "DebertaV2Tokenizer": lambda: folders.unigram(("[PAD]", "[CLS]", "[SEP]", "[UNK]"), ("[MASK]",)),
    "MBartTokenizer": lambda: folders.unigram(last=(*MBART, "<mask>")),
    "MBart50Tokenizer": lambda: folders.unigram(last=(*MBART50, "<mask>")),
    "NllbTokenizer": lambda: folders.underscored(("<s>", "<pad>", "</s>", "<unk>", *NLLB, "<mask>")),
}
# XLM-R's vocabulary in a folder of BERT's, of which transformers makes a WordPiece model: each word is unknown to it.
MISTAKEN = "sentence-transformers__paraphrase-multilingual-MiniLM-L12-v2"
FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def published():
    """Pairs of a name and a dict from names of files to what they hold."""
    for folder in sorted(DATA.glob("*/")) if DATA.is_dir() else ():
        files = {name: json.loads((folder / name).read_text()) for name in FILES if (folder / name).is_file()}
        config = folder / "config.json"
        if files:
            yield folder.name, {**files, "config.json": json.loads(config.read_text()) if config.is_file() else {}}
    for line in LIST.read_text().splitlines() if LIST.is_file() else ():
        row = json.loads(line)
        if row.get("tokenizer_config"):
            yield row["name"], {"tokenizer_config.json": row["tokenizer_config"], "config.json": row["config"]}


PUBLISHED = {name: files for name, files in published() if name != MISTAKEN}


@pytest.mark.skipif(not PUBLISHED, reason=f"no settings at {DATA} and {LIST}")
@pytest.mark.parametrize("name", PUBLISHED or [""])
def test_published_settings(name, tmp_path):
    files = PUBLISHED[name]
    kind = files["config.json"].get("model_type")
    settings = {**files.get("special_tokens_map.json", {}), **files.get("tokenizer_config.json", {})}
    cls = class_of(settings, files["config.json"])
    if cls in ("MarianTokenizer", "M2M100Tokenizer") or (cls not in SMALL and kind == "marian"):
        pytest.skip("of a class without tokenizer.json, tested beside test_tokenizer_classes")
    folder = folders.write(tmp_path, SMALL.get(cls, folders.byte_level)())
    config = {
        key: files["config.json"][key] for key in ("model_type", "tokenizer_class") if key in files["config.json"]
    }
    for file, value in {**files, "config.json": config}.items():
        (folder / file).write_text(json.dumps(value))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ids of the small vocabulary are others
        theirs, ours = check(folder, folders.texts()[::9])
        ours.save(tmp_path / "saved")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    texts = folders.texts()[1000:1060]  # without what looks like a special token of the small vocabulary
    assert again(texts)["input_ids"] == theirs(texts)["input_ids"]


def test_the_record_of_the_quick_suite(tmp_path):
    for number, (name, kind, spec, settings, text, tokens) in enumerate(recorded.RECORDED):
        folder = recorded.folder_of(tmp_path / str(number), spec(), recorded.settings_of(name, settings), kind)
        theirs = transformers.AutoTokenizer.from_pretrained(folder)
        assert theirs.convert_ids_to_tokens(theirs(text)["input_ids"]) == tokens.split(), (name, settings)
