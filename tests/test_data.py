"""Data: every source, token files that notice damage, packing, batches whose order is a function of (seed, step)."""

import errno
import gc
import gzip
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kerasllm import data
from kerasllm.data import formats, packing, sources, token_writing
from kerasllm.data.packing import lay_out, plan_windows
from kerasllm.tokenizers import Tokenizer

BYTES = Tokenizer.train([], kind="byte", progress=False)
END = BYTES.end_id
DOCUMENTS = [f"Document {n}: " + "all work and no play " * (n % 7) + "é" * (n % 3) for n in range(40)]


def tokens_of(documents):
    return [[*BYTES.encode(document), END] for document in documents]


def batches(documents=DOCUMENTS, seq_len=16, batch_size=4, **options):
    return data.causal_lm_dataset(documents, BYTES, seq_len, batch_size, progress=False, **options)


@pytest.fixture
def token_folder(tmp_path):
    return data.write_tokens(DOCUMENTS, BYTES, tmp_path / "tokens", progress=False).folder


# Sources


def test_files_folders_globs_and_lists(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbfbee\r\n")
    (tmp_path / "a.md").write_text("ay")
    (tmp_path / "sub" / "c.txt.gz").write_bytes(gzip.compress("sée".encode()))
    (tmp_path / "sub" / "d.jsonl.gz").write_bytes(gzip.compress(b'{"text": "dee"}\n\n{"text": "D\\u00e9"}\n'))
    (tmp_path / "code.py").write_text("x = 1")
    (tmp_path / "blank.txt").write_text(" \n")
    (tmp_path / ".hidden.txt").write_text("secret")
    with pytest.warns(UserWarning, match="5 files are read and 1 are left out, 1 .py"):
        assert list(data.read_text(tmp_path)) == ["ay", "bee\r\n", "sée", "dee", "Dé"]
    assert list(data.read_text(f"{tmp_path}/**/*.gz")) == ["sée", "dee", "Dé"]
    assert list(data.read_text([tmp_path / "code.py", str(tmp_path / "a.md")])) == ["x = 1", "ay"]
    (tmp_path / "e.jsonl").write_text('{"body": "E", "text": 5}\n')
    assert list(data.read_text(tmp_path / "e.jsonl", field="body")) == ["E"]


def test_a_large_file_is_cut_at_line_ends_and_keeps_every_character(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_DOCUMENT", 50)
    monkeypatch.setattr(formats, "_CHUNK_BYTES", 7)
    monkeypatch.setattr(formats, "_HEAD_BYTES", 7)
    text = "".join(f"línea {n} 東京\n" for n in range(30)) + "x" * 120
    (tmp_path / "large.txt").write_text(text)
    documents = list(data.read_text(tmp_path / "large.txt"))
    assert "".join(documents) == text
    assert all(len(document) <= 50 for document in documents)
    assert all(document.endswith("\n") for document in documents[:8])


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("name", ["bad.txt", "bad.txt.gz", "bad.jsonl"])
@pytest.mark.parametrize("begin", ["", "é" * 20, "a\né\n"])
def test_a_file_that_is_not_utf8_is_named_with_the_byte(tmp_path, monkeypatch, bom, name, begin):
    monkeypatch.setattr(formats, "_CHUNK_BYTES", 4)
    monkeypatch.setattr(formats, "_HEAD_BYTES", 4)
    start = b"".join(b'{"text": "%s"}\n' % line.encode() for line in begin.splitlines())
    content = bom + (start if name == "bad.jsonl" else begin.encode()) + "東京".encode()[:4] + b"\xff rest"
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(ValueError, match=rf"{name} is not UTF-8: byte {content.index(0xFF) - 1} is 0xe4"):
        list(data.read_text(tmp_path / name))


def test_python_docs_are_long_and_always_the_same():
    documents = list(data.read_text("python_docs"))
    assert sum(map(len, documents)) > 300_000
    assert documents == list(data.read_text("python_docs"))


def test_tensorflow_datasets(tmp_path):
    tf = pytest.importorskip("tensorflow")
    tfds = pytest.importorskip("tensorflow_datasets")
    splits = {
        name: tf.data.Dataset.from_tensor_slices({"text": texts, "title": ["t"] * len(texts)})
        for name, texts in {"train": ["one", "zwölf"], "test": ["three"]}.items()
    }
    text = tfds.features.Text()
    tfds.dataset_builders.store_as_tfds_dataset(
        "toy_corpus",
        "1.0.0",
        tfds.features.FeaturesDict({"text": text, "title": text}),
        splits,
        data_dir=tmp_path,
        config="tiny",
    )
    assert list(data.read_text("tfds:toy_corpus/tiny", data_dir=tmp_path)) == ["one", "zwölf"]
    assert list(data.read_text("tfds:toy_corpus/tiny:test", data_dir=tmp_path)) == ["three"]
    assert list(data.read_text("tfds:toy_corpus/tiny:train[:1]", data_dir=tmp_path)) == ["one"]
    assert list(data.read_text("tfds:toy_corpus/tiny", field="title", data_dir=tmp_path)) == ["t", "t"]
    with pytest.raises(ValueError, match=r"no split 'dev': it has .*train"):
        list(data.read_text("tfds:toy_corpus/tiny:dev", data_dir=tmp_path))
    with pytest.raises(ValueError, match=r"2 text features.*field="):
        list(data.read_text("tfds:toy_corpus/tiny", field="body", data_dir=tmp_path))
    with pytest.raises(ValueError, match=r"has no 'tiny_shakespear'. Did you mean tiny_shakespeare"):
        list(data.read_text("tfds:tiny_shakespear", data_dir=tmp_path))
    with pytest.raises(ValueError, match=r"has no 'glue/colla'. The configs of glue are .*'cola'"):
        list(data.read_text("tfds:glue/colla", data_dir=tmp_path))


def test_the_split_is_nanogpts_for_one_file_and_for_many(tmp_path):
    text = "".join(chr(97 + n % 26) for n in range(1003))
    (tmp_path / "one.txt").write_text(text)
    for part, expected in zip(data.split_text(tmp_path / "one.txt"), (text[:902], text[902:]), strict=True):
        assert list(part) == list(part) == [expected]
    (tmp_path / "many").mkdir()
    for n in range(10):
        (tmp_path / "many" / f"{n}.txt").write_text(str(n) * 100)
    train, validation = (list(part) for part in data.split_text(tmp_path / "many", validation=0.25))
    assert train == [str(n) * 100 for n in range(7)] + ["7" * 50]
    assert validation == ["7" * 50, "8" * 100, "9" * 100]


@pytest.mark.parametrize(
    "content, name, error, message",
    [
        (b"", "empty.txt", ValueError, "holds no text"),
        (b" \n", "blank.txt", ValueError, "holds no text"),
        (b'{"text": "a"}\n{"body": "b"}', "x.jsonl", ValueError, r"line 2 has no text in a field 'text': .*\['body'\]"),
        (b'["a"]', "x.jsonl", ValueError, "line 1 has no text.* a list"),
        (b"not json", "x.jsonl", ValueError, "line 1 is not JSON"),
        (b"not gzip", "x.gz", ValueError, "not a whole gzip file"),
        (gzip.compress(b"text" * 99, mtime=0)[:-9], "x.gz", ValueError, "not a whole gzip file"),
    ],
)
def test_bad_files(tmp_path, content, name, error, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=message):
        list(data.read_text(tmp_path / name))


@pytest.mark.parametrize(
    "source, error, message",
    [
        ("nowhere.txt", FileNotFoundError, "No text at nowhere.txt: give a file, a folder"),
        ("nowhere/*.txt", FileNotFoundError, "No text at nowhere"),
        (Path(__file__).parents[1] / ".ci", FileNotFoundError, r"has no .txt, .md, .*file, .*; it has 1 nameless"),
        ([], ValueError, "empty list"),
        (7, TypeError, "source must be"),
    ],
)
def test_bad_sources_are_refused_before_anything_is_read(source, error, message):
    with pytest.raises(error, match=message):
        data.read_text(source)


# Token files


def test_token_files_hold_the_documents(token_folder):
    files = data.TokenFiles(token_folder)
    expected = tokens_of(DOCUMENTS)
    assert files.tokens.dtype == np.uint16 and not files.tokens.flags.writeable
    assert files.tokens.tolist() == np.concatenate(expected).tolist()
    assert files.document_ends.tolist() == np.cumsum([len(row) for row in expected]).tolist()
    assert files.num_documents == len(DOCUMENTS) and files.num_tokens == len(files.tokens)
    assert files.num_bytes == sum(len(document.encode()) for document in DOCUMENTS)
    assert files.fingerprint == BYTES.fingerprint()
    files.verify()


def test_large_vocabularies_take_four_bytes(tmp_path):
    words = [f"w{n}" for n in range(70_000)]
    import tokenizers

    engine = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: n for n, word in enumerate(words)}, "w0"))
    engine.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    files = data.write_tokens(["w69999 w1", "w2"], Tokenizer(engine), tmp_path / "tokens", progress=False)
    assert files.tokens.dtype == np.uint32 and files.tokens.tolist() == [69999, 1, 2]
    assert files.document_ends.tolist() == [2, 3]  # this tokenizer has no end token


@pytest.mark.parametrize("name", ["tokens.bin", "document_ends.bin"])
def test_damage_is_noticed(token_folder, name):
    content = bytearray((token_folder / name).read_bytes())
    content[5] ^= 1
    (token_folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        data.TokenFiles(token_folder).verify()
    (token_folder / name).write_bytes(content[:-1])
    with pytest.raises(ValueError, match=f"{name} has .* bytes where the manifest says"):
        data.TokenFiles(token_folder)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"version": 3}, "has version 3"),
        ({"dtype": "object"}, "damaged"),
        ({"num_tokens": -4}, "damaged"),
        ({"num_tokens": None}, "damaged"),
        ({"sha256": "x"}, "damaged"),
    ],
)
def test_a_manifest_is_not_trusted(token_folder, change, message):
    path = token_folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        data.TokenFiles(token_folder)
    path.write_text("[]")
    with pytest.raises(ValueError, match="not a manifest"):
        data.TokenFiles(token_folder)


def test_ids_past_the_vocabulary_are_not_trained_on(token_folder):
    content = bytearray((token_folder / "tokens.bin").read_bytes())
    content[0:2] = b"\xff\xff"
    (token_folder / "tokens.bin").write_bytes(content)
    with pytest.raises(Exception, match="token ids past its vocabulary of 259"):
        list(batches(token_folder, shuffle=False))


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def failing():
        yield "fine"
        raise FileNotFoundError(errno.ENOENT, "the source went away")

    with pytest.raises(FileNotFoundError, match="went away"):
        data.write_tokens(failing(), BYTES, tmp_path / "tokens", progress=False)
    with pytest.raises(ValueError, match="nothing to tokenize"):
        data.write_tokens(["", ""], BYTES, tmp_path / "tokens", progress=False)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(token_writing._Hashed, "write", full)
    with pytest.raises(OSError, match=r"tokens \(No space left on device\); nothing was left"):
        data.write_tokens(DOCUMENTS, BYTES, tmp_path / "tokens", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(token_folder):
    with pytest.raises(FileExistsError, match="is left as it is"):
        data.write_tokens(["new"], BYTES, token_folder, progress=False)
    data.TokenFiles(token_folder).verify()


# Packing


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=50), seq_len=st.integers(1, 12), block=st.integers(1, 60)
)
def test_a_plan_covers_every_pair_once_and_cuts_only_what_does_not_fit(lengths, seq_len, block):
    ends = np.cumsum(lengths)
    packing._BLOCK, whole = block, packing._BLOCK
    try:
        plan = plan_windows(ends, seq_len)
    finally:
        packing._BLOCK = whole
    filled = np.add.reduceat(plan.length, plan.first[:-1]) if len(plan.length) else np.array([])
    assert (filled <= seq_len).all()
    pairs = [(begin + i, begin + i + 1) for begin, n in zip(plan.begin, plan.length, strict=True) for i in range(n)]
    starts = np.concatenate([[0], ends[:-1]])
    assert sorted(pairs) == [(i, i + 1) for a, b in zip(starts, ends, strict=True) for i in range(a, b - 1)]
    assert len(plan.begin) == sum(-(-(length - 1) // seq_len) for length in lengths)


def test_packing_wastes_little():
    lengths = np.random.default_rng(0).lognormal(5, 1, 5_000).astype(int) + 2
    plan = plan_windows(np.cumsum(lengths), 256)
    assert plan.length.sum() / (plan.num_windows * 256) > 0.99


def test_pieces_are_laid_out_side_by_side():
    tokens, row, begin, length = np.arange(10, 20), np.array([0, 0, 2]), np.array([0, 6, 8]), np.array([2, 1, 2])
    ids, labels, document_ids = lay_out(tokens, row, begin, length, (3, 4), pad_id=5)
    assert ids.tolist() == [[10, 11, 16, 5], [5, 5, 5, 5], [18, 19, 5, 5]]
    assert labels.tolist() == [[11, 12, 17, 5], [5, 5, 5, 5], [19, 10, 5, 5]]
    assert document_ids.tolist() == [[1, 1, 2, 0], [0, 0, 0, 0], [1, 1, 0, 0]]


# Batches


def rows(dataset):
    """All windows: (ids, labels, weight, document ids or None)."""
    found = []
    for inputs, labels, weight in dataset.as_numpy_iterator():
        packed = isinstance(inputs, dict)
        ids = inputs["token_ids"] if packed else inputs
        documents = inputs["document_ids"] if packed else [None] * len(ids)
        found += zip(ids, labels, weight, documents, strict=True)
    return found


@pytest.mark.parametrize("packed", [False, True])
def test_shapes_are_static_and_the_length_is_known(packed):
    dataset = batches(packed=packed)
    row = ((4, 16), "int32")
    inputs, *others = dataset.element_spec
    specs = [*(inputs[key] for key in ("token_ids", "document_ids"))] if packed else [inputs]
    assert [(tuple(spec.shape), spec.dtype.name) for spec in specs] == [row] * len(specs)
    assert [(tuple(spec.shape), spec.dtype.name) for spec in others] == [row, ((4, 16), "float32")]
    assert len(dataset) == len(list(dataset)) > 20


@pytest.mark.parametrize("batch_size", [1, 4, 7])
def test_validation_scores_every_label_once_in_order(batch_size):
    stream = np.concatenate(tokens_of(DOCUMENTS)).tolist()
    windows = rows(batches(batch_size=batch_size, shuffle=False))
    weight = np.concatenate([weight for _, _, weight, _ in windows])
    assert set(weight) == {0, 1} and len(weight) % (16 * batch_size) == 0
    assert np.concatenate([ids for ids, *_ in windows])[weight > 0].tolist() == stream[:-1]
    assert np.concatenate([labels for _, labels, *_ in windows])[weight > 0].tolist() == stream[1:]


def test_training_goes_through_all_windows_in_an_order_of_its_own_each_epoch():
    random = np.random.default_rng(0)
    documents = ["".join(map(chr, random.integers(33, 126, length))) for length in range(40)]
    stream = np.concatenate(tokens_of(documents[1:])).tolist()
    dataset = batches(documents, epochs=3, batch_size=1, seed=3)
    windows = rows(dataset)
    count = (len(stream) - 1) // 16
    assert len(dataset) == 3 * count
    ring = stream + stream[:32]
    places = {tuple(ring[start : start + 17]): start for start in range(len(stream))}
    epochs = [
        [places.get((*ids, labels[-1])) for ids, labels, *_ in windows[e * count : (e + 1) * count]] for e in range(3)
    ]
    assert sorted(epochs[0]) == [16 * n for n in range(count)] != epochs[0]
    for ids, labels, weight, _ in windows:
        assert (ids[1:] == labels[:-1]).all() and weight.all()
    for epoch in epochs[1:]:  # contiguous windows again, all shifted by the same number of places
        assert len({start % 16 for start in epoch if start + 16 < len(stream)}) == 1
        assert len(set(epoch)) == count
    assert len({tuple(epoch) for epoch in epochs}) == 3


@pytest.mark.parametrize("packed", [False, True])
def test_the_order_is_a_function_of_seed_and_step(packed, token_folder):
    def run(**options):
        return [np.stack(row[:2]) for row in rows(batches(token_folder, packed=packed, **options))]

    whole = run(seed=5, epochs=2)
    assert np.array_equal(whole, run(seed=5, epochs=2))
    assert not np.array_equal(whole, run(seed=6, epochs=2))
    per_epoch = len(whole) // 8
    for step in (1, per_epoch - 1, per_epoch, per_epoch + 3):
        assert np.array_equal(whole[4 * step :], run(seed=5, epochs=2, start_step=step))
    assert not np.array_equal(whole[: 4 * per_epoch], whole[4 * per_epoch :])


@pytest.mark.parametrize("shuffle", [False, True])
def test_packed_windows_never_cross_documents(shuffle):
    documents = [document for document in DOCUMENTS if document]
    windows = rows(batches(packed=True, shuffle=shuffle, seq_len=32, batch_size=1))
    known = {tuple(row[i : i + 2]) for row in tokens_of(documents) for i in range(len(row) - 1)}
    seen = 0
    for ids, labels, weight, document_ids in windows:
        assert ((document_ids > 0) == (weight > 0)).all()
        assert (np.diff(document_ids[weight > 0]) >= 0).all() and document_ids[0] == 1
        assert (ids[weight == 0] == BYTES.pad_id).all() and END not in ids
        for number in range(1, document_ids.max() + 1):
            inside = document_ids == number
            assert (ids[inside][1:] == labels[inside][:-1]).all()
            assert set(zip(ids[inside].tolist(), labels[inside].tolist(), strict=True)) <= known
        seen += int(weight.sum())
    assert seen == sum(len(row) - 1 for row in tokens_of(documents))
    assert sum((labels[weight > 0] == END).sum() for _, labels, weight, _ in windows) == len(documents)


def test_temporary_tokens_live_as_long_as_the_data_set(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dataset = batches(iter(DOCUMENTS)).take(3)
    gc.collect()
    assert len(list(tmp_path.iterdir())) == 1 and len(list(dataset)) == 3
    del dataset
    gc.collect()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="nothing to tokenize"):
        batches([])
    assert list(tmp_path.iterdir()) == []


def test_tokens_can_be_kept(tmp_path):
    kept = rows(batches(token_folder=tmp_path / "kept"))
    again = rows(batches(data.TokenFiles(tmp_path / "kept")))
    assert np.array_equal([row[0] for row in kept], [row[0] for row in again])


def test_fit_takes_it_as_it_is(capsys):
    import keras

    model = keras.Sequential([keras.layers.Embedding(BYTES.vocab_size, 4), keras.layers.Dense(BYTES.vocab_size)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    dataset = batches(epochs=2)
    history = model.fit(dataset, epochs=2, steps_per_epoch=len(dataset) // 2)
    assert len(history.history["loss"]) == 2
    assert f"{len(dataset) // 2}/{len(dataset) // 2}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"seq_len": 0}, ValueError, "seq_len must be at least 1, got 0"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"epochs": 0}, ValueError, "epochs must be at least 1"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
        ({"start_step": -1}, ValueError, "start_step must be at least 0"),
        ({"start_step": 9999}, ValueError, "start_step=9999 is past the end: 1 epochs of"),
        ({"seq_len": 9999}, ValueError, "tokens make 0 windows of seq_len=9999, fewer than one batch"),
        ({"batch_size": 9999}, ValueError, "fewer than one batch of batch_size=9999"),
        ({"documents": "corpus.txt"}, FileNotFoundError, r"read_text\(path\)"),
        ({"documents": [b"bytes"]}, TypeError, "takes str, got bytes"),
    ],
)
def test_bad_arguments_get_one_clear_sentence(options, error, message):
    with pytest.raises(error, match=message):
        batches(**options)


def test_tokens_of_another_tokenizer_are_refused(token_folder):
    other = Tokenizer.train(DOCUMENTS, kind="char", progress=False)
    with pytest.raises(ValueError, match="made by another tokenizer"):
        data.causal_lm_dataset(token_folder, other, 16, 4)
