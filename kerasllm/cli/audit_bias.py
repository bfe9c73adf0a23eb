"""`kerasllm audit bias`: tests of bias of one model, or of two side by side, with their perplexity."""

import json
from pathlib import Path

from kerasllm.cli.startup import start_keras
from kerasllm.files import check_new_folder, new_folder, write_json

_WITH_LIMIT = ("crows_pairs", "stereoset", "bbq", "wino_bias")


def run(arguments):
    tests = asked_tests(arguments)
    if not tests:
        raise ValueError("There is no test: give the file of one, such as --crows-pairs FILE or --templates FILE.")
    if arguments.out:
        check_new_folder(arguments.out)
    start_keras()
    import kerasllm
    from kerasllm.evaluation.bias import BiasComparison

    found, text = {}, []
    for folder in arguments.compare or [arguments.model]:
        model, tokenizer = kerasllm.load(folder)
        for name, scores in measure(model, tokenizer, tests, arguments).items():
            found.setdefault(name, []).append(scores)
        if arguments.text:
            text.append(perplexity(model, tokenizer, arguments.text, folder))

    found = {name: scores[0] if len(scores) == 1 else BiasComparison(*scores) for name, scores in found.items()}
    figures = {name: scores.to_dict() for name, scores in found.items()}
    if text:
        figures["perplexity"] = text if arguments.compare else text[0]
    if arguments.json:
        print(json.dumps(figures))
    else:
        print(*map(str, found.values()), sep="\n\n")
        if text:
            print(f"\nPerplexity on {' '.join(arguments.text)}: {_perplexities(text)}")
    if arguments.out:
        with new_folder(arguments.out) as draft:
            write_json(draft / "bias.json", figures)
            for name, scores in found.items():
                scores.plot(draft / f"{name.replace('_', '-')}.png")


def asked_tests(arguments):
    """The files of the tests that the flags ask for, by name."""
    tests = {name: getattr(arguments, name) for name in (*_WITH_LIMIT, "templates") if getattr(arguments, name)}
    for path in (path for files in tests.values() for path in ([files] if isinstance(files, str) else files)):
        if not Path(path).is_file():
            raise FileNotFoundError(f"There is no file {path}.")
    return tests


def measure(model, tokenizer, tests, arguments):
    """`BiasScores` by test."""
    from kerasllm.evaluation import bias

    found = {}
    for name, files in tests.items():
        options = {"limit": arguments.limit} if name in _WITH_LIMIT else {}
        found[name] = getattr(bias, name)(model, tokenizer, files, seed=arguments.seed, **options)
    return found


def perplexity(model, tokenizer, paths, folder):
    """The perplexity of text in files."""
    import kerasllm

    score = getattr(kerasllm.evaluation, kerasllm.tasks.task_of(model).scored_by)
    if isinstance(model, kerasllm.models.Seq2SeqLM):
        raise ValueError(
            f"--text is for models that have a perplexity of a text, and {folder} translates: leave it out."
        )
    return score(model, tokenizer, kerasllm.data.read_text(paths)).perplexity


def _perplexities(text):
    if len(text) == 1:
        return f"{text[0]:.4g}"
    return f"{text[0]:.4g} before, {text[1]:.4g} after ({text[1] / text[0] - 1:+.2%})"
