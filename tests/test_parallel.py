"""Parallel text: pairs out of files and TensorFlow Datasets, what is left out, and training kept apart from tests."""

import gzip
import warnings

import pytest

from kerasllm.data import read_pairs, read_text, remove_overlap

GERMAN = ["Hallo, Welt!", "Ein \u2028 Hund.", "Zwölf\x0bMänner"]
ENGLISH = ["Hello, world!", "A dog.", "Twelve\x85men"]
PAIRS = list(zip(GERMAN, ENGLISH, strict=True))


@pytest.fixture(autouse=True)
def _no_warning_is_expected():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


@pytest.fixture
def write(tmp_path):
    """Writes lines to a file of that name, gzip where the name says so, and returns its path."""

    def write(name, lines, end="\n"):
        content = "".join(line + end for line in lines).encode()
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return tmp_path / name

    return write


# Files


def test_two_files_are_read_line_by_line(write):
    german, english = write("a.de.gz", GERMAN), write("a.en", ["\ufeff Hello, world! ", *ENGLISH[1:]], end="\r\n")
    assert list(read_pairs(german, str(english))) == PAIRS
    assert list(read_pairs(english, german)) == [(target, source) for source, target in PAIRS]


@pytest.mark.parametrize("name", ["pairs.tsv", "pairs.tsv.gz", "pairs.txt"])
def test_one_file_holds_the_pairs_in_columns(write, name):
    path = write(name, [f'{source}\t{target}\t"CC BY' for source, target in PAIRS])
    assert list(read_pairs(path)) == PAIRS
    assert list(read_pairs(path, columns=(1, 0))) == [(target, source) for source, target in PAIRS]
    assert list(read_pairs(path, columns=(0, 2))) == [(source, '"CC BY') for source in GERMAN]


def test_a_sentence_without_its_other_side_is_left_out_and_counted(write):
    left, right = write("l", ["a", "", "c", " ", "e"]), write("r", ["A", "", " ", "D", "E"])
    with pytest.warns(UserWarning, match=r"2 of 4 pairs of .*l and .*r were left out.*the first is number 3") as caught:
        assert list(read_pairs(left, right)) == [("a", "A"), ("e", "E")]
    assert len(caught) == 1
    with pytest.warns(UserWarning, match="1 of 2 pairs"):
        assert list(read_pairs(write("x.tsv", ["a\tA", "", "\tB"]))) == [("a", "A")]
    assert list(read_pairs(write("l", ["", "b"]), write("r", ["\t", "B"]))) == [("b", "B")]


def test_files_that_do_not_belong_together_are_refused_with_both_counts(write):
    long, short = write("l", "abc"), write("s", "AB")
    for files, counts in [((long, short), r"l has 3 lines and .*s has 2"), ((short, long), r"s has 2 .*l has 3")]:
        with pytest.raises(ValueError, match=counts):
            list(read_pairs(*files))


def test_bad_files_are_named_with_the_place(write, tmp_path):
    good = write("good", "ab")
    (tmp_path / "bad").write_bytes(b"\xef\xbb\xbf" + "é\nü".encode() + b"\xff\n")
    with pytest.raises(ValueError, match=r"bad is not UTF-8: byte 8 is 0xff"):
        list(read_pairs(good, tmp_path / "bad"))
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"line\n" * 99)[:-9])
    with pytest.raises(ValueError, match=r"cut.gz is not a whole gzip file"):
        list(read_pairs(tmp_path / "cut.gz", good))
    with pytest.raises(ValueError, match=r"x.tsv, line 3 has 1 columns.*give the other one as target"):
        list(read_pairs(write("x.tsv", ["a\tb", "", "c"])))
    with pytest.raises(ValueError, match=r"blank and .*good holds no pair"):
        list(read_pairs(write("blank", ["", ""]), good))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (["nowhere.de", "nowhere.en"], {}, FileNotFoundError, "No file at nowhere.de: give two text files"),
        ([__file__, "."], {}, FileNotFoundError, r"No file at \."),
        ([__file__, __file__], {"columns": (0, 1)}, ValueError, "their order is the direction"),
        ([__file__], {"columns": "en"}, ValueError, "columns='en' is not possible; name two"),
        (["tfds:a", "b"], {}, ValueError, "choose them with columns= in place of target=b"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_read(arguments, options, error, message):
    with pytest.raises(error, match=message):
        read_pairs(*arguments, **options)
    with pytest.raises(ValueError, match=r"number its columns from 0"):
        list(read_pairs(__file__, columns=("en", "de")))


# TensorFlow Datasets


@pytest.fixture(scope="module")
def tfds():
    return pytest.importorskip("tensorflow_datasets")


@pytest.fixture
def prepare(tfds, tmp_path):
    """Prepares a data set in tmp_path that stands in no registry, so that it is known from its files alone."""

    def prepare(name, features, examples, config="tiny", version="1.0.0", **info):
        class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
            VERSION = tfds.core.Version(version)
            BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []

            def _info(self):
                return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True, **info)

            def _split_generators(self, _):
                return {"train": self._generate_examples(examples), "test": self._generate_examples(examples[:1])}

            def _generate_examples(self, examples):
                yield from enumerate(examples)

        Builder.name = name
        offline = tfds.download.DownloadConfig(try_download_gcs=False)
        Builder(data_dir=tmp_path).download_and_prepare(download_config=offline)

    return prepare


def test_translations_of_a_data_set_that_is_on_disk_only(tfds, prepare, tmp_path):
    languages = tfds.features.Translation(languages=["de", "en"])
    examples = [{"de": source, "en": target} for source, target in PAIRS]
    swapped = [(target, source) for source, target in PAIRS]
    prepare("toy_pairs", languages, examples, supervised_keys=("en", "de"))
    assert list(read_pairs("tfds:toy_pairs", data_dir=tmp_path)) == swapped
    assert list(read_pairs("tfds:toy_pairs/tiny:test", data_dir=str(tmp_path))) == swapped[:1]
    assert list(read_pairs("tfds:toy_pairs/tiny", columns=("de", "en"), data_dir=tmp_path)) == PAIRS
    assert list(read_text("tfds:toy_pairs/tiny:train[1:]+test", field="de", data_dir=tmp_path)) == [
        *GERMAN[1:],
        GERMAN[0],
    ]
    with pytest.raises(ValueError, match=r"no \('de', 'fr'\), its texts are \['de', 'en'\]: name two"):
        list(read_pairs("tfds:toy_pairs/tiny", columns=("de", "fr"), data_dir=tmp_path))
    with pytest.raises(ValueError, match=r"has no split 'dev': it has .*train"):
        list(read_pairs("tfds:toy_pairs/tiny:dev", data_dir=tmp_path))
    with pytest.raises(ValueError, match=r"has no 'toy_pairs/huge'. .*toy_pairs has \['tiny'\]: name a config"):
        list(read_pairs("tfds:toy_pairs/huge", data_dir=tmp_path))
    with pytest.raises(ValueError, match=r"has no 'ted_hrlr_translat/pt_to_en'. Did you mean ted_hrlr_translate"):
        list(read_pairs("tfds:ted_hrlr_translat/pt_to_en", data_dir=tmp_path))


def test_what_is_on_disk_serves_in_place_of_a_download(tfds, prepare, tmp_path, monkeypatch):
    features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
    prepare("tiny_shakespeare", features, [{"text": "To be"}], config=None, version="0.9.0")
    monkeypatch.delattr(tfds.core.GeneratorBasedBuilder, "_download_and_prepare")
    assert list(read_text("tfds:tiny_shakespeare", data_dir=tmp_path)) == ["To be"]


def test_texts_inside_other_features(tfds, prepare, tmp_path):
    text, languages = tfds.features.Text(), tfds.features.Translation(languages=["de", "en"])
    examples = [{"translation": {"de": source, "en": target}, "id": "x"} for source, target in PAIRS]
    prepare("nested_pairs", tfds.features.FeaturesDict({"translation": languages, "id": text}), examples)
    columns = ("translation/en", "translation/de")
    pairs = read_pairs("tfds:nested_pairs/tiny", columns=columns, data_dir=tmp_path)
    assert list(pairs) == [(target, source) for source, target in PAIRS]
    assert list(read_text("tfds:nested_pairs/tiny", field=columns[1], data_dir=tmp_path)) == GERMAN
    with pytest.raises(ValueError, match=r"no pair by itself, its texts are .*'translation/de'"):
        list(read_pairs("tfds:nested_pairs/tiny", data_dir=tmp_path))


def test_languages_that_vary_from_example_to_example(tfds, prepare, tmp_path):
    feature = tfds.features.TranslationVariableLanguages(languages=["de", "en", "fr"])
    examples = [{"de": "Hund", "en": ["dog", "hound"], "fr": "chien"}, {"de": "Katze", "fr": "chat"}, {"fr": "oui"}]
    prepare(
        "many_languages", tfds.features.FeaturesDict({"texts": feature}), [{"texts": example} for example in examples]
    )
    with pytest.warns(UserWarning, match=r"1 of 3 pairs of tfds:many_languages/tiny were left out.* number 3"):
        pairs = list(read_pairs("tfds:many_languages/tiny", columns=("en", "de"), data_dir=tmp_path))
    assert pairs == [("dog", "Hund"), ("hound", "Hund")]
    for columns in (None, ("en", "pt")):
        with pytest.raises(ValueError, match=r"many languages: name two of \['de', 'en', 'fr'\] with columns="):
            list(read_pairs("tfds:many_languages/tiny", columns=columns, data_dir=tmp_path))


def test_a_folder_of_translations_is_a_data_set(tfds, write, tmp_path):
    write("de.train.txt", ["Hund", "Katze"])
    write("en.train.txt", ["dog", "cat"])
    write("de.test.txt", ["Maus"])
    write("en.test.txt", ["mouse"])
    assert list(read_pairs("tfds:translate_folder", data_dir=tmp_path)) == [("Hund", "dog"), ("Katze", "cat")]
    pairs = read_pairs("tfds:translate_folder:test", columns=("en", "de"), data_dir=tmp_path)
    assert list(pairs) == [("mouse", "Maus")]
    assert list(read_text("tfds:translate_folder", field="en", data_dir=str(tmp_path))) == ["dog", "cat"]
    with pytest.raises(ValueError, match=r"has no split 'train.:1.': it has"):
        list(read_pairs("tfds:translate_folder:train[:1]", data_dir=tmp_path))
    write("README", ["x"])
    with pytest.raises(ValueError, match=r"must hold files named LANGUAGE.SPLIT.txt"):
        list(read_pairs("tfds:translate_folder", data_dir=tmp_path))
    with pytest.raises(FileNotFoundError, match="data_dir=None is no folder"):
        list(read_pairs("tfds:translate_folder"))


# Overlap


def test_training_pairs_that_occur_in_held_out_sets_are_removed_and_counted():
    train = [
        ("Ein  Hund bellt.", "A dog barks."),
        ("Drei Katzen", "Three cats"),
        ("Die Straße", "The street"),
        ("ＡＢＣ", "letters"),
        ("हिन्दी", "Hindi"),
        ("?!", "..."),
        ("Ein Hund bellte.", "A dog barked."),
    ]
    held_out = {
        "val": [("EIN HUND, BELLT!", "Dogs bark."), ("Drei Kater", "three—cats"), ("हुन्दी", "Hundi")],
        "test": iter([("Drei Katzen", "x"), ("The streets", "DIE STRASSE"), ("abc", "y"), ("!", "?")]),
        "other": [],
    }
    kept, removed = remove_overlap(iter(train), held_out)
    assert kept == train[4:]
    assert removed == {"val": 2, "test": 3, "other": 0}


def test_multi30k_has_two_training_pairs_in_its_validation_set(shared_data):
    folder = shared_data / "multi30k"
    parts = {
        name: list(read_pairs(folder / f"{name}.de.gz", folder / f"{name}.en.gz"))
        for name in ("train", "val", "test_2016_flickr")
    }
    assert [len(pairs) for pairs in parts.values()] == [29_000, 1_014, 1_000]
    kept, removed = remove_overlap(parts.pop("train"), parts)
    assert len(kept) == 28_998 and removed == {"val": 2, "test_2016_flickr": 0}
