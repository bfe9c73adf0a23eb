"""The README's first page does what it says."""

import re
import shlex
from pathlib import Path

import pytest

import kerasllm
from kerasllm.cli.arguments import parse
from kerasllm.models import presets

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


@pytest.mark.soak  # test_docs.py runs that of the pages
def test_its_python_runs_from_the_first_line_to_the_last(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    text = "The class of a thing is what the thing is an instance of. " * 180
    monkeypatch.setattr(kerasllm.data, "read_text", lambda source: iter([text]))
    fields = presets.preset_fields
    monkeypatch.setattr(presets, "preset_fields", lambda name: {**fields(name), "num_layers": 1})
    names = {}
    for code in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL):
        exec(code, names)
    assert (tmp_path / "my-model" / "model.safetensors").is_file()
    assert (tmp_path / "my-export" / "saved_model.pb").is_file()


def test_its_two_commands_are_those_that_ci_runs():
    assert "pip install -e . && kerasllm quickstart" in README
    assert 'pip install -e ".[test]" && pytest' in README
    script = (Path(__file__).resolve().parents[1] / ".ci" / "run").read_text(encoding="utf-8")
    assert 'pip install -e ".[test]" && pytest' in script and "kerasllm quickstart" in script
    for rest in ("parity", '"(soak or scale or hypothesis) and not parity"'):  # what the first leaves out
        assert f"pytest -m {rest} --hypothesis-profile=soak" in script


def test_the_command_line_knows_its_commands():
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    lines = [line for kind, block in blocks if kind != "python" for line in block.replace("\\\n", " ").splitlines()]
    commands = [command for line in lines for command in re.findall(r"(?:^|(?<=&& ))kerasllm .*", line)]
    assert {"quickstart", "train", "generate", "export"} <= {command.split()[1] for command in commands}
    for command in commands:
        words = shlex.split(command.partition("&&")[0].partition("|")[0].partition(" > ")[0], comments=True)[1:]
        assert parse(words).command == words[0]


def test_its_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", re.sub(r"^```.*?^```", "", README, flags=re.DOTALL | re.MULTILINE)):
        assert target.startswith("http") or (Path(__file__).resolve().parents[1] / target).exists(), target
