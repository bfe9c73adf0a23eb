"""Files as people have them: tables, JSON, compression and encodings, and the field of a record that is the text."""

import bz2
import csv
import gzip
import io
import json
import lzma
import random
import sys
import tarfile
import warnings
import zipfile

import numpy as np
import pytest
from reads import counted_reads

from kerasllm import data
from kerasllm.cli import main
from kerasllm.data import formats, records
from kerasllm.tokenizers import Tokenizer

TEXTS = ['He said "no", and left.', "Two\nlines\tand a tab", "Zwölf; 東京", "1,5 or 2"]
PAIRS = [("Ein Hund", "A dog"), ('Er sagt "ja"', "He says\nyes"), ("Zwölf", "Twelve")]


@pytest.fixture(autouse=True)
def _no_warning_is_expected():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


@pytest.fixture
def write(tmp_path):
    """Writes str or bytes to a file of that name and returns its path."""

    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def table(rows, **options):
    file = io.StringIO()
    csv.writer(file, **{"lineterminator": "\n", **options}).writerows(rows)
    return file.getvalue()


def read(path, **options):
    return list(data.read_text(path, **options))


# Compression and encoding


def zstandard(content):
    return pytest.importorskip("zstandard").compress(content)


@pytest.mark.parametrize(
    "end, compress", [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress), (".zst", zstandard)]
)
def test_compressed_files_are_read_as_what_they_hold_and_named_where_cut(write, end, compress):
    content = "".join(f"línea {n}\n" for n in range(3000)).encode()
    parts = compress(content[:-9]) + compress(content[-9:])  # several streams in one file, as `cat` makes them
    for name in ("a.txt" + end, "b.TXT" + end.upper(), "without-its-end.txt"):
        assert "".join(read(write(name, parts))) == content.decode()
    records = compress(b'{"text": "one"}\n')
    assert read(write(f"c.JSONL{end}", records)) == read(write(f"d.Json{end}", records)) == ["one"]
    noise = np.random.default_rng(0).integers(32, 127, 50_000, "uint8").tobytes()
    for broken in (compress(noise)[:-700], b"no such file"):
        with pytest.raises(ValueError, match=r"e.txt\S* is not a whole (gzip|bzip2|xz|Zstandard) file: "):
            read(write(f"e.txt{end}", broken))


def test_without_the_package_for_zstandard_or_parquet_the_message_says_what_to_install(write, monkeypatch, capsys):
    for name, package, content in (("a.txt.zst", "zstandard", b"\x28\xb5\x2f\xfd"), ("b.parquet", "pyarrow", b"")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ModuleNotFoundError, match=f"{name} is .*pip install {package}"):
            read(write(name, content))
        assert main(["train", "--data", str(write(name, content)), "--out", "nowhere"]) == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith("kerasllm train: ")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_encodings_are_told_by_their_marks(write, monkeypatch, encoding):
    monkeypatch.setattr(formats, "_CHUNK_BYTES", 5)
    text = "Two\r\nlines 東京 🙂"
    content = text.encode(encoding)
    assert read(write("a.txt", content)) == [text]
    assert list(data.read_pairs(write("b.txt", content), write("c.txt", "1\n2"))) == [("Two", "1"), (text[5:], "2")]
    assert read(write("d.CSV", f'id,text\r\n7,"{text}"\r\n'.encode(encoding))) == [text]
    if encoding != "utf-8-sig":
        with pytest.raises(ValueError, match=r"is not UTF-(16|32): byte "):
            read(write("e.txt", content[:-1]))


def test_what_is_no_text_is_refused_by_what_it_is(write):
    archive, tape = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.txt", "text")
    with tarfile.open(fileobj=tape, mode="w") as file:
        file.addfile(tarfile.TarInfo("a.txt"))
    for name, content, what in (
        ("a.txt", archive.getvalue(), "a ZIP archive"),
        ("b.csv", archive.getvalue(), "a ZIP archive"),
        ("c.tar.gz", gzip.compress(tape.getvalue()), "a tar archive"),
        ("d.pdf", b"%PDF-1.7 ...", "a PDF"),
    ):
        with pytest.raises(ValueError, match=f"{name} is {what}.*, and no text"):
            read(write(name, content))
    with pytest.raises(ValueError, match=r"e.bin is not UTF-8: byte 0 is 0xff. It holds zero bytes"):
        read(write("e.bin", b"\xff\xd8\x00\x10"))
    for text in ("BZh is how bzip2 begins", "PAR1 is how Parquet begins", "PAR1"):
        assert read(write("f.txt", text)) == [text]


# Tables


@pytest.mark.parametrize("delimiter, name", [(",", "a.csv"), (";", "a.csv"), ("\t", "a.csv"), ("\t", "a.tsv")])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
def test_a_column_is_found_named_or_numbered(write, delimiter, name, quoting):
    def written(*rows):
        return write(name, table(rows, delimiter=delimiter, quoting=quoting))

    numbered = [(n, text) for n, text in enumerate(TEXTS)]
    assert read(written(("", "review"), *numbered)) == TEXTS
    assert read(written(("label", "text"), *(("good", text) for text in TEXTS))) == TEXTS
    several = written(("label", "body"), *(("good", text) for text in TEXTS))
    assert read(several, field="body") == TEXTS
    with pytest.raises(ValueError, match=r"a\..sv has the columns 'label', 'body'.*name it with field= \(--field"):
        read(several)
    with pytest.raises(ValueError, match=r"a\..sv, line 2 has no text in a field 'txt'.*'label', 'body'"):
        read(several, field="txt")
    assert read(written(*numbered), field="1") == TEXTS  # no names in the first line


def test_long_cells_and_broken_rows(write):
    assert read(write("a.csv", f"text\n{'x' * 200_000}\n")) == ["x" * 200_000]
    with pytest.raises(ValueError, match=r"b.csv, line 3 has 3 columns where the first line has 2"):
        read(write("b.csv", "id,text\n1,one\n2,two, too\n"))
    with pytest.raises(ValueError, match=r"c.csv, line 3 begins a row that is not CSV: unexpected end"):
        read(write("c.csv", 'id,text\n1,one\n2,"two\n3,three\n'))
    with pytest.raises(ValueError, match="holds no text"):
        read(write("d.csv", "text\n"))


def test_quotes_that_do_not_match_are_quotes(write):
    path = write("a.tsv", 'id\ttext\n1\t"Look," she said.\n2\t"Yes\n')
    assert read(path) == ['"Look," she said.', '"Yes']


def test_a_tsv_file_is_read_once_where_nothing_in_it_is_in_quotes(write):
    path = write("a.tsv", "id\ttext\r\n" + "".join(f"{n}\t{text}\r\n" for n, text in enumerate("abc")) + "\r\n")
    with counted_reads(path) as reads:
        assert read(path) == ["a", "b", "c"]
    assert reads == {"a.tsv": 1}
    draw = random.Random(0)
    for _ in range(250):
        lines = ["".join(draw.choices('a"\t\r ', (6, 1, 6, 0.5, 0.5), k=4)) for _ in range(draw.randint(1, 4))]
        path = write("b.tsv", "\n".join(lines))
        plain = enumerate(formats.read_lines(path), start=1)
        plain = [(n, line.removesuffix("\r").split("\t")) for n, line in plain if line and not line.isspace()]
        expected = list(records._read_csv(path, "\t")) if records._width(path, "\t") else plain
        assert list(records.read_tabs(path, formats.TSV)) == expected, lines


def test_null_is_left_out_and_counted_once(write, tmp_path):
    path = write("a.jsonl", '{"text": "one"}\n\n{"text": null}\n{"text": "two"}\n')
    with pytest.warns(
        UserWarning, match=r"text is null are left out: 1, the first of which is .*a.jsonl, line 3\."
    ) as caught:
        assert read([path, write("b.json", '[{"text": "three"}]')]) == ["one", "two", "three"]
    assert len(caught) == 1
    with pytest.raises(ValueError, match=r"holds no text.* left out: 2, the first of which is .*line 1\."):
        read(write("c.jsonl", '{"text": null}\n{"text": null}\n'))


def test_the_command_line_shows_a_warning_once_and_as_a_sentence(write, tmp_path, monkeypatch, capsys):
    path = write("a.jsonl", '{"text": null}\n{"text": "too short"}\n')
    monkeypatch.setattr(warnings, "showwarning", lambda *what: sys.stderr.write(warnings.formatwarning(*what)))
    warnings.simplefilter("always")
    assert main(["train", "--data", str(path), "--tokenizer", "char", "--out", str(tmp_path / "out")]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "null" in line]
    assert len(said) == 1 and said[0].startswith("kerasllm train: Records whose text is null")


@pytest.mark.parametrize(
    "value",
    [
        [{"text": text, "n": 1} for text in TEXTS],
        TEXTS,
        {"version": "1", "data": [{"id": n, "body": text} for n, text in enumerate(TEXTS)]},
        {"text": TEXTS, "n": [1] * 4},
        {"text": dict(zip("0123", TEXTS, strict=True)), "n": dict.fromkeys("0123", 1)},  # as pandas writes it
    ],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_json_holds_records_in_several_ways(write, value, indent):
    path = write("a.json", json.dumps(value, indent=indent))
    with counted_reads(path) as reads:
        assert read(path) == TEXTS
    assert reads == {"a.json": 1}


def test_json_that_is_one_record_lines_or_damaged(write):
    lines = "\n".join(json.dumps({"text": text}) for text in TEXTS)
    assert read(write("a.json", lines)) == read(write("a.ndjson", lines)) == TEXTS
    nested = {"translation": {"en": "dog", "de": "Hund"}}
    assert read(write("b.json", json.dumps(nested)), field="translation.de") == ["Hund"]
    assert read(write("b.json", json.dumps([nested])), field="translation/en") == ["dog"]
    for name, content, message in (
        ("c.json", '[{"text": "a"},\n{"text": }]', r"c.json is not JSON: .*line 2 column"),
        ("d.json", '[{"text": 5}]', r"d.json, record 1 has no text in a field 'text': it has a int"),
        ("e.json", "[1, 2]", r"e.json, record 1 has no text in a field None: it has a int"),
        ("f.json", "", "holds no text"),
    ):
        with pytest.raises(ValueError, match=message):
            read(write(name, content))


def test_parquet(write, tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    records = [{"text": text, "meta": {"source": "web"}, "n": 1, "tags": ["a"]} for text in TEXTS]
    parquet.write_table(pyarrow.Table.from_pylist([*records, {"text": None}]), tmp_path / "a.parquet")
    with pytest.warns(UserWarning, match=r"left out: 1, .*a.parquet, row 5\."):
        assert read(tmp_path / "a.parquet") == TEXTS
    with pytest.warns(UserWarning, match="null"):
        assert read(tmp_path / "a.parquet", field="source") == ["web"] * 4
    (tmp_path / "a.parquet").rename(tmp_path / "b.bin")
    with pytest.warns(UserWarning, match="null"):
        assert read(tmp_path / "b.bin") == TEXTS
    with pytest.raises(ValueError, match=r"c.parquet is not a whole Parquet file"):
        read(write("c.parquet", (tmp_path / "b.bin").read_bytes()[:-20]))


# Folders


def test_a_folder_says_what_it_leaves_out(write, tmp_path):
    for name in ("a.py", "b.py", "c.toml", "d"):
        write(name, name)
    with pytest.raises(FileNotFoundError, match=r"it has 2 .py, 1 .toml, 1 nameless.* such as \"\S+/\*\*/\*.py\"\."):
        read(tmp_path)
    write("a.csv", "text\none\n")
    with pytest.warns(UserWarning, match=r"1 files are read and 4 are left out, 2 .py"):
        assert read(tmp_path) == ["one"]
    write("b.JSON.GZ", gzip.compress(b'["two"]'))
    with pytest.raises(FileNotFoundError, match=r"1 .csv|1 .GZ"):
        read(tmp_path)
    write("README.md", "three")
    with pytest.warns(UserWarning, match=r"1 files are read and 6 are left out, 2 .py"):
        assert read(tmp_path) == ["three"]


# Pairs


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.parquet"])
def test_pairs_are_two_fields_of_a_record(write, tmp_path, name):
    records = [{"id": n, "translation": {"de": de, "en": en}} for n, (de, en) in enumerate(PAIRS)]
    if name.endswith("sv"):
        rows = [("id", "de", "en"), *((n, *pair) for n, pair in enumerate(PAIRS))]
        write(name, table(rows, delimiter="," if name == "a.csv" else "\t"))
    elif name.endswith("parquet"):
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.Table.from_pylist(records), tmp_path / name)
    else:
        write(name, json.dumps(records) if name == "a.json" else "\n".join(map(json.dumps, records)))
    assert list(data.read_pairs(tmp_path / name, columns=("en", "de"))) == [pair[::-1] for pair in PAIRS]
    if name != "a.tsv":  # there the default is the first two columns
        assert list(data.read_pairs(tmp_path / name)) == PAIRS
    with pytest.raises(ValueError, match=r"no text in a field 'fr'.*'(translation.)?de'"):
        list(data.read_pairs(tmp_path / name, columns=("fr", "de")))


def test_columns_of_a_table_are_numbered_too_and_a_side_may_be_null(write):
    rows = [(n, *pair) for n, pair in enumerate(PAIRS)]
    for name, delimiter in (("a.csv", ","), ("b.tsv", "\t")):
        path = write(name, table(rows, delimiter=delimiter))
        assert list(data.read_pairs(path, columns=(1, 2))) == list(data.read_pairs(path, columns=["1", "2"])) == PAIRS
    path = write("c.jsonl", '{"a": "x", "b": null}\n{"a": "y", "b": "z"}\n')
    with pytest.warns(UserWarning, match="1 of 2 pairs"):
        assert list(data.read_pairs(path)) == [("y", "z")]
    with pytest.raises(ValueError, match=r"d.csv has no pair by itself, as it has the columns 'a', 'b', 'c'"):
        list(data.read_pairs(write("d.csv", "a,b,c\nx,y,z\n")))


# TensorFlow Datasets


def test_plain_strings_nested_features_and_the_folder_of_a_version(tmp_path):
    tf, tfds = pytest.importorskip("tensorflow"), pytest.importorskip("tensorflow_datasets")
    features = tfds.features.FeaturesDict(
        {
            "plain": tf.string,
            "inner": {"numpy": np.str_, "number": np.int64},
            "tensor": tfds.features.Tensor(shape=(), dtype=tf.string),
            "many": tfds.features.Tensor(shape=(2,), dtype=tf.string),
        }
    )
    rows = {"plain": ["p", "q"], "inner": {"numpy": ["n", "ñ"], "number": [1, 2]}, "tensor": ["t", "u"]}
    examples = tf.data.Dataset.from_tensor_slices({**rows, "many": [["a", "b"]] * 2}).take(2)
    tfds.dataset_builders.store_as_tfds_dataset(
        "plain_strings", "1.2.0", features, {"train": examples, "test": examples.take(1)}, data_dir=tmp_path
    )
    name, folder = "tfds:plain_strings", tmp_path / "plain_strings" / "1.2.0"
    with pytest.raises(ValueError, match=r"has 3 text features, \['inner/numpy', 'plain', 'tensor'\]: name"):
        read(name, data_dir=tmp_path)
    assert read(name, field="plain", data_dir=tmp_path) == ["p", "q"]
    for field in ("inner/numpy", "inner.numpy", "numpy"):
        assert read(folder, field=field) == read(f"tfds:{folder}", field=field) == ["n", "ñ"]
    assert read(f"tfds:{folder}:test", field="tensor") == ["t"]
    assert list(data.read_pairs(folder, columns=("tensor", "inner.numpy"))) == [("t", "n"), ("u", "ñ")]
    with pytest.raises(ValueError, match=r"has no split 'dev': it has .*train"):
        read(f"tfds:{folder}:dev", field="plain")


# One str where documents are meant


LONG = "To be, or not to be, that is the question.\n" * 100
TOKENIZER = Tokenizer.train([], kind="byte", special_tokens=["<|mask|>"], progress=False)


@pytest.mark.parametrize("text", ["To be, or not to be", LONG, __file__])
def test_one_str_where_documents_are_meant_gives_one_sentence(text):
    one = r"got one str: pass \[text\] for one text, or kerasllm.data.read_text\(path\)"
    for call in (
        lambda: Tokenizer.train(text, progress=False),
        lambda: data.clean(text),
        lambda: data.deduplicate(text),
        lambda: data.write_tokens(text, TOKENIZER, "nowhere", progress=False),
    ):
        with pytest.raises(TypeError, match=one):
            call()
    with pytest.raises(TypeError, match=r"got one str: pass \[\(source, target\)\], or read_pairs\(path\)"):
        data.seq2seq_dataset(text, TOKENIZER)
    tokens = "A source names files" if text is LONG else r"No token files at .*: make them .*\[text\] for one text"
    for dataset in (data.causal_lm_dataset, data.masked_lm_dataset):
        with pytest.raises(FileNotFoundError, match=tokens):
            dataset(text, TOKENIZER, 8, 2)


@pytest.mark.parametrize("value", [{"text": "a"}, 7, np.array([["a"]])])
def test_keys_columns_and_numbers_are_no_documents(value):
    for call in (
        lambda: Tokenizer.train(value, kind="char", progress=False),
        lambda: data.clean(value),
        lambda: data.causal_lm_dataset(value, TOKENIZER, 8, 2, progress=False),
    ):
        with pytest.raises(TypeError, match=r"is an iterable of str, such as a list, got (dict|int|ndarray)"):
            call()


@pytest.mark.parametrize("text", [LONG, "x" * 300])
def test_a_text_is_no_source(text):
    for call in (data.read_text, data.split_text, data.read_pairs):
        with pytest.raises(FileNotFoundError, match=r"this str of [\d,]+ characters cannot: .*give \[text\] to what"):
            call(text)
