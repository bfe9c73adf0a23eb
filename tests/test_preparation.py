"""Corpora of any size: one process and Apache Beam write the same bytes; runs are trained from them, and mixed."""

import functools
import json
import random

import numpy as np
import pytest

import kerasllm
from kerasllm.data import TokenMixture, causal_lm_dataset, clean, curriculum_dataset, deduplicate, write_tokens
from kerasllm.preparation import chunks, duplicates, prepare
from kerasllm.tokenizers import Tokenizer

BYTES = Tokenizer.train([], kind="byte")
RULES = ("repair", "quality")
_RANDOM = random.Random(0)
WORDS = ["".join(_RANDOM.choices("abcdefghijklmnop", k=_RANDOM.randint(2, 7))) for _ in range(999)]
QUESTION = "What is it that walks on four legs in the morning and on two at noon?"


def made_documents(count, seed=0):
    """New ones, copies in capitals, chains of near-duplicates of near-duplicates, markup, and what is no text."""
    draw, documents = random.Random(seed), ["no", "-- * --", f"<p>{QUESTION}</p>"]
    for _ in range(count):
        words = draw.choices(WORDS, k=draw.choice([3, 60, 150]))
        kind = draw.random()
        if kind < 0.15:
            words = draw.choice(documents).upper().split(" ")
        elif kind < 0.6:
            words = draw.choice(documents[-20:]).split(" ")
            for _ in range(max(1, len(words) // draw.choice([20, 40, 80]))):
                words[draw.randrange(len(words))] = draw.choice(WORDS)
        documents.append(" ".join(words))
    return documents


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    for number, documents in enumerate(np.array_split(np.array(made_documents(400), object), 12)):
        lines = [json.dumps({"text": document}) + "\n" for document in [*documents, ""]]
        (folder / f"{number:02}.jsonl").write_text("".join([*lines, '{"text": null}\n']))
    return folder


@pytest.fixture
def small_pieces(monkeypatch):
    """Many groups and chunks of little text."""
    monkeypatch.setattr(chunks, "_GROUP_BYTES", 1)
    monkeypatch.setattr(chunks, "_CHARACTERS", 2000)


def prepared(corpus, folder, **options):
    options = {"clean": RULES, "deduplicate": True, "num_shards": 3, "progress": False, **options}
    return prepare(corpus, BYTES, folder, **options)


def texts(files):
    return sorted(BYTES.decode(tokens) for tokens in files.documents())


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_shards_hold_what_the_rules_leave(corpus, tmp_path, small_pieces):
    files = prepared(corpus, tmp_path / "tokens")
    kept = deduplicate(clean(list(kerasllm.data.read_text(corpus)), RULES))
    assert texts(files) == sorted(kept)
    removed = files.report["deduplicate"]["removed"]
    assert removed == kept.report.removed and min(removed.values()) > 20
    assert files.report["clean"]["removed"]["too_short"] >= 1 and files.report["records_without_text"] == 12
    assert min(part.counts["num_tokens"] for part in files._parts) > 0.2 * files.num_tokens
    files.verify()
    assert files.tokenizer().fingerprint() == BYTES.fingerprint()


def test_held_out_text_is_left_out(corpus, tmp_path):
    with_it, without = prepared(corpus, tmp_path / "a"), prepared(corpus, tmp_path / "b", held_out=[QUESTION])
    gone = set(texts(with_it)) - set(texts(without))
    assert QUESTION in gone and all("four legs" in text.lower() for text in gone)
    assert without.report["decontaminate"]["removed"]["in_held_out"] >= len(gone)
    with pytest.raises(ValueError, match="No held-out text has 13 words"):
        prepared(corpus, tmp_path / "c", held_out=["too short"])


def test_documents_in_other_languages_are_left_out(tmp_path):
    pytest.importorskip("py3langid")
    found = {
        "en": "The owl sees in the wood what the fox has heard in the morning, and tells nobody.",
        "de": "Die Eule sieht im Wald, was der Fuchs am Morgen gehört hat, und sagt es niemandem.",
        "fr": "La chouette voit dans la forêt ce que le renard a entendu le matin, et ne le dit à personne.",
        "zh": "猫头鹰在树林里看到狐狸早上听到的事情，却没有告诉任何人。",
    }
    source = tmp_path / "texts.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in found.values()))
    files = prepared(source, tmp_path / "tokens", clean=(), languages=["de", "zh"])
    assert texts(files) == sorted([found["de"], found["zh"]])
    assert files.report["languages"]["removed"] == {"other_language": 2}
    with pytest.raises(ValueError, match=r"`languages` are some of ace, .*; got 'klingon'"):
        prepared(source, tmp_path / "none", languages=["klingon"])


@pytest.mark.parametrize("num_partitions", [1, 7])
def test_duplicates_that_are_found_apart_are_those_found_in_order(num_partitions):
    documents = made_documents(600, seed=1)
    hasher, parts = duplicates.Hasher(), {"bands": {}, "alike": {}}
    hashed = [
        hasher.hash(chunks.document_numbers(place << 5, range(20)), documents[place : place + 20])
        for place in range(0, 600, 20)
    ]
    digests, bands, signatures = map(np.concatenate, zip(*hashed, strict=True))

    def put(kind, pieces):
        for number, part in pieces:
            parts[kind].setdefault(number, []).insert(0, part)

    put("bands", duplicates.by_hash(bands, bands["key"], num_partitions))
    links = [duplicates.links(duplicates.whole(part, duplicates.BANDS)) for part in parts["bands"].values()]
    members = duplicates.joined(np.concatenate([duplicates.joined(links[0]), *links[1:]]))
    signatures = signatures[np.isin(signatures["document"], members["document"])]
    first = members["first"][np.searchsorted(np.sort(members, order="document")["document"], signatures["document"])]
    assert len(np.unique(members["first"])) > 10
    put("alike", duplicates.by_hash(signatures, first, num_partitions))
    near = [duplicates.near_duplicates(duplicates.whole(p, signatures.dtype)) for p in parts["alike"].values()]
    gone = {*np.concatenate(near).tolist(), *duplicates.exact_duplicates(digests).tolist()}
    numbers = np.concatenate([chunks.document_numbers(place << 5, range(20)) for place in range(0, 600, 20)])
    kept = [document for document, number in zip(documents, numbers.tolist(), strict=False) if number not in gone]
    assert kept == list(deduplicate(documents[:600]))


def test_components_are_joined_in_any_order():
    draw = np.random.default_rng(0)
    links = np.zeros(40, duplicates.LINKS)
    links["first"], links["document"] = draw.integers(0, 60, (2, 40))
    links = links[links["first"] != links["document"]]
    whole = duplicates.joined(links)
    apart = [duplicates.joined(part) for part in np.array_split(links, 5)]
    assert duplicates.joined(np.concatenate(apart[::-1])).tolist() == whole.tolist()
    found = {}
    for first, document in whole.tolist():
        found.setdefault(first, set()).add(document)
    expected = []
    for pair in map(set, links.tolist()):
        expected = [group for group in expected if not group & pair] + [
            pair.union(*(group for group in expected if group & pair))
        ]
    assert sorted(map(sorted, found.values())) == sorted(map(sorted, expected))
    assert all(first == min(group) for first, group in found.items())


def test_shards_are_read_from_an_object_store_in_bounded_memory(corpus, tmp_path, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    from kerasllm.data import token_arrays

    store = fsspec.filesystem("memory")
    for path in corpus.iterdir():
        store.pipe(f"/corpus/{path.name}", path.read_bytes())
    here = prepared(corpus, tmp_path / "tokens")
    there = prepared("memory://corpus/*.jsonl", "memory://tokens")
    assert {path.rpartition("/")[2]: store.cat(path) for path in store.find("/tokens")} == content(tmp_path / "tokens")
    with pytest.raises(FileExistsError, match="is left as it is"):
        prepared("memory://corpus", "memory://tokens")
    monkeypatch.setattr(token_arrays, "_BLOCK_BYTES", 256)
    monkeypatch.setattr(token_arrays, "_BLOCKS_KEPT", 4)
    there = kerasllm.data.TokenFiles("memory://tokens")
    for packed in (False, True):
        one, other = (
            [np.asarray(batch[1]) for batch in causal_lm_dataset(files, BYTES, 64, 8, packed=packed).take(5)]
            for files in (here, there)
        )
        np.testing.assert_array_equal(one, other)
    assert len(there._blocks) == 4
    there.verify()
    np.testing.assert_array_equal(np.asarray(there.document_ends), np.asarray(here.document_ends))


def test_a_mixture_keeps_its_shares_and_its_order(tmp_path):
    draw, alphabets = random.Random(0), {"abcd": 30, "efgh": 50, "ijkl": 50}
    sources = [
        write_tokens(
            ["".join(draw.choices(letters, k=60)) for _ in range(n)], BYTES, tmp_path / letters, progress=False
        )
        for letters, n in alphabets.items()
    ]
    mixture = TokenMixture(sources, [1, 2, 1], budgets=[None, None, 320])

    def windows(start_step=0):
        dataset = causal_lm_dataset(mixture, BYTES, 16, 4, seed=5, epochs=2, start_step=start_step)
        return [[BYTES.decode(row) for row in np.asarray(batch[0])] for batch in dataset]

    seen = windows()
    assert len(seen) == 40  # 320 tokens of the last are 20 windows, a quarter of an epoch
    assert seen[7:] == windows(start_step=7) and seen[:20] != seen[20:]
    for epoch in (seen[:20], seen[20:]):
        drawn = [next(letters for letters in alphabets if window[5] in letters) for batch in epoch for window in batch]
        assert [drawn.count(letters) for letters in alphabets] == [20, 40, 20]
    of_second = [window for batch in seen for window in batch if window[5] in "efgh"]
    assert len(set(of_second)) == 80  # the second epoch goes on where the first was
    assert len({window for batch in seen for window in batch if window[5] in "ijkl"}) <= 40  # and the last begins anew
    with pytest.raises(ValueError, match="above 0"):
        TokenMixture(sources, [1, 0, 1])
    with pytest.raises(ValueError, match="no order of its own"):
        causal_lm_dataset(mixture, BYTES, 16, 4, shuffle=False)


def test_what_is_split_off_ends_where_documents_do(tmp_path):
    files = write_tokens([letter * 9 for letter in "abcdefghij"], BYTES, tmp_path / "tokens", progress=False)
    training, held_out = files.split(0.3, 10**6)
    assert texts(held_out) == ["h" * 9, "i" * 9, "j" * 9] and training.num_documents == 7
    assert texts(files.split(0.5, 20)[1]) == ["i" * 9, "j" * 9]
    assert np.asarray(held_out.document_ends).tolist() == [10, 20, 30]


@pytest.mark.parametrize("before", [[], ["a" * 9, "b" * 9]])
def test_a_long_last_document_is_cut(tmp_path, before):
    long = "0123456789" * 10 + "abcdefghi"
    files = write_tokens([*before, long], BYTES, tmp_path / "tokens", progress=False)
    training, held_out = files.split(0.1, 20)
    begin = files.num_tokens - held_out.num_tokens
    assert held_out.num_tokens in (11, 13) and begin == training.num_tokens
    assert texts(training) == [long[: begin - 10 * len(before)], *before]
    assert texts(held_out) == [long[begin - 10 * len(before) :]]


def test_short_windows_come_first_and_each_step_is_that_of_their_own_data_set(tmp_path):
    files = write_tokens(made_documents(40), BYTES, tmp_path / "tokens", progress=False)
    make = functools.partial(causal_lm_dataset, files, BYTES, seed=3)
    short, long = (make(*shape, epochs=2) for shape in ((16, 8), (64, 2)))

    def rows(dataset):
        return [np.asarray(batch[0]).tolist() for batch in dataset]

    def batches(**options):
        return rows(curriculum_dataset(make, 64, 2, [(16, 3), (32, 2)], **options))

    seen = batches(epochs=2)
    assert len(seen) == len(long) and [np.shape(batch) for batch in seen[2:6]] == [(8, 16), (4, 32), (4, 32), (2, 64)]
    assert seen[:3] == rows(short.take(3)) and seen[5:] == rows(long)[5:]
    assert seen[4:] == batches(epochs=2, start_step=4)
    with pytest.raises(ValueError, match="divides 64"):
        curriculum_dataset(make, 64, 2, [(48, 1)])


# Apache Beam


def _failing(function, draw, failures):
    """A function that in one of 20 calls fails when it has done its work."""

    @functools.wraps(function)
    def wrapped(*arguments, **options):
        outcome = function(*arguments, **options)
        if draw.random() < 0.05:
            failures.append(function)
            raise OSError("injected")
        return outcome

    return wrapped


@pytest.mark.scale
def test_beam_writes_the_same_bytes_though_workers_fail(corpus, tmp_path, small_pieces, monkeypatch):
    pytest.importorskip("apache_beam")
    from apache_beam.runners.direct import executor

    from kerasllm.data import token_writing
    from kerasllm.preparation import job

    one = prepared(corpus, tmp_path / "one", held_out=[QUESTION])
    draw, failures = random.Random(2), []
    runner = ["--runner", "BundleBasedDirectRunner"]
    # A bundle here is many calls, and fails where one of them does.
    monkeypatch.setattr(executor.TransformExecutor, "_MAX_RETRY_PER_BUNDLE", 100)
    monkeypatch.setattr(job.DocumentRules, "apply", _failing(job.DocumentRules.apply, draw, failures))
    for name in ("__exit__", "__enter__"):
        method = getattr(token_writing.TokenWriter, name)
        monkeypatch.setattr(token_writing.TokenWriter, name, _failing(method, draw, failures))
    for name in ("near_duplicates", "exact_duplicates", "links", "joined"):
        monkeypatch.setattr(duplicates, name, _failing(getattr(duplicates, name), draw, failures))
    many = prepared(corpus, tmp_path / "many", held_out=[QUESTION], runner=runner)
    assert failures
    assert content(tmp_path / "many") == content(tmp_path / "one")
    assert texts(many) == texts(one) and many.report == one.report


@pytest.mark.scale
def test_beam_in_two_processes_writes_the_same_bytes(corpus, tmp_path):
    pytest.importorskip("apache_beam")
    runner = ["--runner", "DirectRunner", "--direct_num_workers", "2", "--direct_running_mode", "multi_processing"]
    prepared(corpus, tmp_path / "one")
    prepared(corpus, tmp_path / "two", runner=runner)
    assert content(tmp_path / "two") == content(tmp_path / "one")


def test_without_beam_it_is_said_what_is_missing(corpus, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "apache_beam", None)
    with pytest.raises(ImportError, match="pip install apache-beam"):
        prepared(corpus, tmp_path / "tokens", runner=["--runner", "DirectRunner"])
    assert not list(tmp_path.iterdir())
