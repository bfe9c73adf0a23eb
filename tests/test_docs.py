"""The documentation does what it says: its Python runs, its commands are the command line's, its rooms are there."""

import re
import shlex

import pytest
from conftest import ROOT

import kerasllm
from kerasllm.cli import arguments
from kerasllm.models import presets

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
PYTHON = {
    name: code
    for name, text in TEXTS.items()
    if name.startswith("docs/") and (code := "\n".join(code for kind, code in BLOCK.findall(text) if kind == "python"))
}
QUICK = {"docs/design.md", "docs/how-to/train.md", "docs/how-to/generate-and-chat.md"}
TEXT = "The class of a thing is what the thing is an instance of. " * 130


def _commands():
    """The commands of blocks, as (page, words), and those within running text that have more than a name."""
    for name, text in TEXTS.items():
        for kind, code in BLOCK.findall(text):
            for line in code.replace("\\\n", " ").splitlines() if not kind else ():
                for command in re.split(r"&&|\| |> ", line):
                    if command.strip().startswith("kerasllm "):
                        yield name, shlex.split(command, comments=True), True
        for command in re.findall(r"`(kerasllm [^`]+)`", BLOCK.sub("", text)):
            if len(words := shlex.split(command)) > 2:
                yield name, words, False


COMMANDS = list(_commands())


@pytest.mark.parametrize(
    "words, is_whole",
    [pytest.param(words, whole, id=f"{name}: {shlex.join(words)}") for name, words, whole in COMMANDS],
)
def test_a_command_is_one_that_the_command_line_takes(words, is_whole):
    try:
        given = vars(arguments.parse(words[1:]))
    except SystemExit as end:
        assert end.code == 0  # --help
        return
    if is_whole and given["command"] == "train" and not given["resume"] and not given["config"]:
        known = arguments.TrainSettings.__dataclass_fields__
        arguments.TrainSettings(**{name: value for name, value in given.items() if name in known})


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[] if page in QUICK else pytest.mark.soak) for page in PYTHON]
)
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fields = presets.preset_fields
    small = {"num_layers": 1, "d_model": 32, "num_heads": 2, "num_kv_heads": None, "dff": 64}
    monkeypatch.setattr(presets, "preset_fields", lambda name: {**fields(name), **small})
    tokenizer = kerasllm.tokenizers.Tokenizer.train([TEXT], kind="char", progress=False)
    if 'load("my-model"' in PYTHON[page]:
        config = kerasllm.models.TransformerConfig(tokenizer.vocab_size, 1, 16, 2, 32, max_length=64)
        kerasllm.save(kerasllm.models.CausalLM(config), tokenizer, "my-model")
    names = {"kerasllm": kerasllm, "text": [TEXT], "tokenizer": tokenizer}
    exec("from kerasllm.models import CausalLM, TransformerConfig\n" + PYTHON[page], names)


def test_both_readmes_have_the_same_code_on_one_page():
    english, chinese = TEXTS["README.md"], TEXTS["README.zh-CN.md"]
    assert BLOCK.findall(english) == BLOCK.findall(chinese)
    links = re.compile(r"\]\(((?!README)[^)]+)\)")
    assert links.findall(english) == links.findall(chinese)
    assert max(len(english.splitlines()), len(chinese.splitlines())) <= 200


def test_links_lead_somewhere():
    for name, text in TEXTS.items():
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", BLOCK.sub("", text)):
            assert target.startswith("http") or ((ROOT / name).parent / target).exists(), f"{name}: {target}"


def test_the_design_names_every_room():
    listed = TEXTS["docs/design.md"].partition("```\nkerasllm/\n")[2].partition("```")[0]
    named = {line.split()[0].strip("/").removesuffix(".py") for line in listed.splitlines()}
    rooms = {path.stem for path in (ROOT / "kerasllm").iterdir() if not path.name.startswith("__")} - {"py"}
    assert rooms == named
