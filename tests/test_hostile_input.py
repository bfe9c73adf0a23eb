"""Whatever stands in a config, in settings or in the files of a run is right, or refused in one sentence.

Tokenizers, cleaning, packing and chat templates have such tests in their own files.
"""

import dataclasses
import json
import math
import shutil

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

import kerasllm
from kerasllm.cli import main
from kerasllm.files import check_file, seal, sealed_files, sha256
from kerasllm.models import TransformerConfig
from kerasllm.settings import TrainSettings, read_yaml

REFUSALS = (ValueError, TypeError, OSError)
CONFIG = {"vocab_size": 9, "num_layers": 1, "d_model": 4, "num_heads": 2, "dff": 8, "max_length": 8}
DEEP = "[" * 20_000
# Small numbers: a large one is a valid size, which takes memory.
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 12) | st.floats() | st.text(max_size=6) | st.just("é\0\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)


def fields_of(dataclass):
    names = [field.name for field in dataclasses.fields(dataclass)]
    return st.dictionaries(st.sampled_from(names) | st.text(max_size=4), VALUES, max_size=3)


def check_sentence(error):
    assert str(error).strip() and "Traceback" not in str(error)


def same(first, second):
    """Whether two JSON values are equal, where a number that is none equals itself."""
    if isinstance(first, float) and isinstance(second, float):
        return first == second or (math.isnan(first) and math.isnan(second))
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(same(first[name], second[name]) for name in first)
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


@given(fields_of(TransformerConfig))
def test_a_config_is_right_and_survives_json_or_is_refused(fields):
    try:
        config = TransformerConfig.from_dict({**CONFIG, **fields})
    except REFUSALS as error:
        check_sentence(error)
        return
    written = config.to_dict()
    assert same(TransformerConfig.from_dict(json.loads(json.dumps(written))).to_dict(), written)


@given(fields_of(TrainSettings))
def test_settings_are_right_and_survive_yaml_or_are_refused(tmp_path_factory, fields):
    path = tmp_path_factory.getbasetemp() / "settings.yaml"
    try:
        path.write_text(yaml.safe_dump({"data": ["text"], "out": "run", **fields}), encoding="utf-8")
    except UnicodeEncodeError:
        return  # no file can say this
    try:
        made = TrainSettings(**read_yaml(path))
    except REFUSALS as error:
        check_sentence(error)
        return
    path.write_text(yaml.safe_dump(made.to_dict(), sort_keys=False), encoding="utf-8")
    assert TrainSettings(**read_yaml(path)) == made


@given(st.binary() | st.text(alphabet="-:[]{}&*!<>|'\" \n0ab", max_size=40).map(str.encode))
@example(DEEP.encode())
@example(b"!!python/object/apply:os.system ['touch escaped']")
@example(b"out: 2001-13-45")
def test_a_settings_file_is_a_mapping_of_settings_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "settings.yaml"
    path.write_bytes(content)
    try:
        values = read_yaml(path)
    except REFUSALS as error:
        check_sentence(error)
        return
    assert values.keys() <= {field.name for field in dataclasses.fields(TrainSettings)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run folder."""
    tokenizer = kerasllm.tokenizers.Tokenizer.train(["abc"], kind="char", progress=False)
    model = kerasllm.models.CausalLM(TransformerConfig.from_dict({**CONFIG, "vocab_size": tokenizer.vocab_size}))
    folder = tmp_path_factory.mktemp("runs") / "saved"
    kerasllm.save(model, tokenizer, folder)
    return folder


@given(data=st.data())
def test_a_run_folder_of_strange_files_is_loaded_or_refused(saved, data):
    """Files that its manifest vouches for, as if someone had made them to do harm."""
    folder = saved.with_name("strange")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(saved, folder)
    names = sorted(path.name for path in folder.iterdir())
    path = folder / data.draw(st.sampled_from(names) | st.just("config.json"))
    before = path.read_bytes()
    if path.suffix == ".json" and data.draw(st.booleans()):
        content = json.loads(before)
        inner = data.draw(st.sampled_from([value for value in (content, *content.values()) if isinstance(value, dict)]))
        inner[data.draw(st.sampled_from([*inner, "new"]))] = data.draw(VALUES)
        after = json.dumps(content).encode()
    else:
        at = data.draw(st.integers(0, len(before)))
        after = before[:at] + data.draw(st.binary(max_size=9)) + before[at + data.draw(st.integers(0, 9)) :]
    path.write_bytes(after)
    if path.name != "manifest.json":
        seal(folder)
    try:
        kerasllm.load(folder)
    except REFUSALS as error:
        check_sentence(error)


@given(name=st.sampled_from(["run.json", "config.json", "log.json"]), content=VALUES)
@example("log.json", DEEP)
def test_inspect_shows_a_strange_run_or_says_what_is_wrong(saved, name, content):
    folder = saved.with_name("inspected")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(saved, folder)
    (folder / name).write_text(content if content is DEEP else json.dumps(content), encoding="utf-8")
    assert main(["inspect", str(folder)]) in (0, 2)


PARTS = ["..", ".", "", "secret", "folder", "config.json", "a" * 300, "a\0"]


@given(st.lists(st.sampled_from(PARTS), min_size=1, max_size=4).map("/".join))
@example("../secret")
def test_a_manifest_never_vouches_for_what_is_outside_its_folder(saved, name):
    place = saved.parent / "place"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(saved, place / "folder")
    (place / "secret").write_text("secret")
    files = {**sealed_files(place / "folder"), name: sha256(place / "secret")}
    kerasllm.files.write_json(place / "folder" / "manifest.json", kerasllm.files._signed(files))
    with pytest.raises(REFUSALS):
        for listed, digest in sealed_files(place / "folder").items():
            check_file(place / "folder", listed, digest)
