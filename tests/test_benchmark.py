"""The benchmarks: who takes turns with whom, what is made of the answers, and that every program runs, very small."""

import inspect
import json

import pytest

from kerasllm.benchmark import compare, load_memory, programs, results, runner
from kerasllm.benchmark.corpus import synthetic_documents
from kerasllm.benchmark.measuring import find
from kerasllm.benchmark.runner import Worker
from kerasllm.benchmark.suites import SUITES, Case, Program, Suite
from kerasllm.cli import main
from kerasllm.cli.arguments import parse
from kerasllm.cli.bench_arguments import BENCH_SUITES

TINY = {"num_layers": 1, "d_model": 16, "num_heads": 2, "dff": 32, "vocab_size": 300}


def test_synthetic_text_has_the_size_asked_for_and_is_always_the_same():
    documents = list(synthetic_documents(100_000))
    assert sum(len(document.encode()) for document in documents) == 100_000
    assert documents == list(synthetic_documents(100_000)) and len(set(documents)) == len(documents) > 10
    words = " ".join(documents).split()
    assert max(map(words.count, set(words))) > len(words) / 20  # as in real text, few words make up much of it


@pytest.fixture
def fake_workers(monkeypatch):
    """Programs whose settings say what they measure; returns the order of what happened."""
    order = []

    class FakeWorker:
        def __init__(self, program):
            self.program, self.rates = program, iter(program.settings["rates"])
            order.append(f"start {program.label}")

        def measure(self):
            order.append(self.program.label)
            rate = next(self.rates, None)
            if rate is None:
                raise RuntimeError("killed")
            return {"rate": rate, "peak_mb": 100.0}

        def close(self):
            order.append(f"close {self.program.label}")

    monkeypatch.setattr(runner, "Worker", FakeWorker)
    return order


def suite(together=True):
    ours = Program("ours", "", {"rates": [50.0] * 3})
    theirs = Program("theirs", "", {"rates": [30.0, 10.0, 20.0]})
    greedy = Program("greedy", "", {"rates": [1.0]})
    absent = Program("absent", "", {}, ("no_such_module",))
    limit = Program("limit", "", {"rates": [600.0] * 3})
    return Suite("Nothing", "tokens", [Case("case", [ours, theirs, greedy, absent], limit, 6.0, together)])


def test_programs_take_turns_and_are_compared_by_their_medians(fake_workers):
    rows = compare(suite(), rounds=3)
    order = ["ours", "theirs", "greedy", "limit"]
    turns = [*order, *order[::-1], "ours", "theirs", "limit"]  # greedy ended in its second turn
    assert fake_workers == [*(f"start {name}" for name in order), *turns, *(f"close {name}" for name in order)]
    assert [row["program"] for row in rows] == ["ours", "theirs", "greedy"]
    assert [(row["rate"], row["ratio"], row["limit"]) for row in rows[:2]] == [(50.0, 1.0, 100.0), (20.0, 2.5, 100.0)]
    assert rows[2]["error"] == "killed"


def test_a_case_whose_first_program_and_limit_fail_is_shown_all_the_same(fake_workers, capsys):
    broken, whole = Program("broken", "", {"rates": []}), Program("whole", "", {"rates": [5.0]})
    one = Suite("Nothing", "tokens", [Case("case", [broken, whole], broken._replace(label="limit"))])
    rows = compare(one, rounds=1)
    assert rows[1] == {
        "case": "case",
        "program": "whole",
        "rate": 5.0,
        "rates": [5.0],
        "peak_mb": 100.0,
        "ratio": None,
        "limit": None,
    }
    results.show(one, rows)
    assert "whole" in capsys.readouterr().out


def test_programs_too_big_to_be_held_together_start_for_each_turn(fake_workers):
    compare(suite(together=False), rounds=2)
    first = [f"{what}ours" for what in ("start ", "", "close ")]
    assert fake_workers[:3] == fake_workers[-3:] == first


def test_results_are_shown_drawn_and_written(fake_workers, tmp_path, capsys):
    rows = compare(suite(), rounds=3)
    results.show(suite(), rows)
    shown = capsys.readouterr().out
    assert "2.50" in shown and "50%" in shown and "killed" in shown
    results.save(suite(), rows, tmp_path / "r.json")
    written = json.loads((tmp_path / "r.json").read_text())
    assert written["results"] == rows and written["versions"]["keras"]
    results.draw(suite(), rows, tmp_path / "r.png")
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_offers_every_suite():
    assert set(BENCH_SUITES) == SUITES.keys()


TRAINING = {"model": TINY, "batch_size": 2, "context": 8, "dtype": "float32"}
GENERATING = {"model": TINY, "batch_size": 2, "prompt_length": 4, "new_tokens": 3}
LLAMA = {**TINY, "dff": 24, "vocab_size": 65, "num_kv_heads": 1, "tie_embeddings": True}
TUNING = {"context": 128, "tokens": 256, "dtype": "float32", "steps": 2}
PICTURES = {"image_size": 8, "patch_size": 4}
SEEING = {"sizes": TINY, "batch_size": 2, "length": 20, **PICTURES, "dtype": "float32", "steps": 2}
SLOW = ("keras_hub", "served", "exported", "train_image")
SMALL = {
    "train_kerasllm": ({**TRAINING, "steps": 2, "chunk_size": 5}, 32),
    "train_keras_hub": ({**TRAINING, "steps": 2, "jit_compile": False}, 32),
    "tune_kerasllm": ({"model": LLAMA, "data": None, "adapter": "lora", "quantize": "nf4", **TUNING}, 512),
    "generate_kerasllm": (GENERATING, 6),
    "decode_kerasllm": ({"model": TINY, "batch_size": 2, "length": 96, "window": 4, "steps": 2}, 4),
    "generate_served": (GENERATING, 6),
    "generate_in_python": ({**GENERATING, "model": {**LLAMA, "vocab_size": 256}}, 6),
    "generate_exported": ({**GENERATING, "model": {**LLAMA, "vocab_size": 256}, "compiled": True}, 6),
    "generate_keras_hub": (GENERATING, 6),
    "tokenize_kerasllm": ({"num_bytes": 20_000, "vocab_size": 400}, 20_000),
    "tokenize_keras_hub": ({"num_bytes": 20_000, "vocab_size": 400}, 20_000),
    "generate_real_kerasllm": ({**GENERATING, "model": LLAMA, "quantize": "int8"}, 6),
    "pack_kerasllm": ({"num_bytes": 20_000, "vocab_size": 400, "context": 64, "batch_size": 2}, 10_966),
    "train_images_kerasllm": (SEEING, 96),
    "train_images_keras_hub": ({**SEEING, "jit_compile": False}, 96),
    "train_image_files": ({**SEEING, "in_memory": True}, 96),
    "matmul_peak": ({"dtype": "mixed_bfloat16"}, None),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.soak if any(word in name for word in SLOW) else ()) for name in SMALL],
)
def test_each_program_does_the_work_it_says(name):
    settings, expected = SMALL[name]
    work, units = find(name)(**settings)
    work()
    assert units == expected


@pytest.mark.soak
def test_packing_leaves_more_real_tokens_in_a_batch(monkeypatch):
    make = programs._causal_lm
    monkeypatch.setattr(
        programs, "_causal_lm", lambda model, *rest: make({**TINY, "vocab_size": model["vocab_size"]}, *rest)
    )
    small = {"steps": 2, "batch_size": 2, "context": 512}
    packed, padded = (programs.train_on_documents(packed=packed, **small)[1] for packed in (True, False))
    assert padded < 0.7 * packed and packed > 0.8 * 2 * 2 * 512  # windows of whole documents


def test_every_suite_names_programs_that_exist():
    for each in SUITES.values():
        for case in each.cases:
            for program in [*case.programs, *filter(None, [case.limit])]:
                inspect.signature(find(program.function)).bind(**program.settings)


@pytest.mark.soak
def test_a_process_measures_and_its_last_words_are_kept():
    worker = Worker(Program("ours", "tokenize_kerasllm", SMALL["tokenize_kerasllm"][0]))
    answer = worker.measure()
    worker.close()
    assert answer["rate"] > 0 and answer["peak_mb"] > 0
    with pytest.raises(RuntimeError, match=r"(?s)no_program.* ended with status 1\. .*no_program"):
        Worker(Program("theirs", "no_program", {}))


def test_the_command_line_knows_every_suite():
    for name in SUITES:
        assert parse(["bench", name]).suite == name


def test_what_cannot_be_measured_is_refused(tmp_path, capsys):
    with pytest.raises(ValueError, match="no suite 'serve'; choose one of train, generate"):
        compare("serve")
    with pytest.raises(ValueError, match="rounds=0"):
        compare("train", rounds=0)
    assert main(["bench", "train", "--out", str(tmp_path / "none" / "r")]) == 2
    assert "There is no folder" in capsys.readouterr().err
    (tmp_path / "r.json").touch()
    assert main(["bench", "train", "--out", str(tmp_path / "r")]) == 2
    assert "exists, and is left as it is" in capsys.readouterr().err


@pytest.mark.soak
def test_loading_a_checkpoint_takes_memory_that_is_seen_from_outside():
    figures = load_memory(2 * 10**6)
    assert figures["checkpoint_mb"] == pytest.approx(3.6, rel=0.1)  # widths are multiples of 32
    assert figures["peak_mb"] > figures["checkpoint_mb"] / 2
    assert figures["ratio"] == figures["peak_mb"] / figures["checkpoint_mb"]
