"""The flags of every command. Nothing heavy is imported here."""

import argparse
import dataclasses
import sys

import kerasllm
from kerasllm.cli.audit_arguments import add_audit_arguments, with_kind
from kerasllm.cli.bench_arguments import add_bench_arguments
from kerasllm.cli.caption_arguments import add_caption_arguments
from kerasllm.cli.choose_arguments import add_choose_arguments
from kerasllm.cli.drawing_arguments import add_drawing_arguments
from kerasllm.cli.evaluate_arguments import add_evaluate_arguments
from kerasllm.cli.examples import EXAMPLES, OF_TUNE, QUANTIZE
from kerasllm.cli.explain_arguments import add_explain_arguments
from kerasllm.cli.export_arguments import add_convert_arguments, add_export_arguments
from kerasllm.cli.mesh_arguments import add_mesh_argument, add_process_arguments
from kerasllm.cli.plan_arguments import add_plan_arguments
from kerasllm.cli.prepare_arguments import add_prepare_arguments
from kerasllm.cli.scale_arguments import add_scale_arguments
from kerasllm.cli.serve_arguments import add_serve_arguments
from kerasllm.cli.setting_arguments import add_field, add_setting
from kerasllm.cli.shown_files import add_shown_arguments
from kerasllm.cli.text_arguments import add_classify_arguments, add_translate_arguments
from kerasllm.cli.watermark_arguments import add_detect_arguments
from kerasllm.settings import TrainSettings
from kerasllm.settings.names import MODEL_FLAGS
from kerasllm.settings.reading import read_fields
from kerasllm.tasks import TASKS
from kerasllm.tasks.tuning import TuneTask


def parse(argv=None):
    """Parses the command line; a wrong one ends the program with exit code 2 and one sentence.

    Args:
        argv: list of arguments after the program's name; those of the process by default.

    Returns:
        An `argparse.Namespace` with `command`, `debug` and the command's arguments. For `train`, a setting that the
        command line does not give is absent.
    """
    parser = argparse.ArgumentParser(
        prog="kerasllm",
        description="From text files to a trained, measured, talking language model, in Keras.",
        epilog="Start with `kerasllm quickstart`. `kerasllm COMMAND --help` shows an example of each.",
    )
    parser.add_argument("--version", action="version", version=f"kerasllm {kerasllm.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (
        *(_add_quickstart, _add_plan, _add_scale, _add_prepare, _add_train, _add_tune, _add_evaluate),
        *(_add_generate, _add_chat, _add_serve, _add_caption, _add_translate, _add_classify, _add_explain),
        *(_add_detect, _add_audit, _add_merge, _add_export, _add_convert, _add_inspect, _add_runs),
        *(_add_choose, _add_bench),
    ):
        add(commands)
    return parser.parse_args(with_kind(sys.argv[1:] if argv is None else list(argv)))


def _add_command(commands, name, help, description=""):
    command = commands.add_parser(
        name,
        help=help,
        description=f"{help[0].upper()}{help[1:]}.{description}",
        epilog="example:\n" + "\n".join(f"  {line}" for line in EXAMPLES[name].splitlines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return command


def _add_quickstart(commands):
    command = _add_command(
        commands,
        "quickstart",
        "train a small model on Python's own documentation, in minutes and without network",
        "\nThen measures it, lets it write, exports it and checks the export.",
    )
    command.add_argument(
        "--out", metavar="RUN", help="run folder to make (default: quickstart, or quickstart-2 ... if that exists)"
    )
    command.add_argument(
        "--minutes",
        type=_positive(float),
        default=2.5,
        metavar="X",
        help="how long all of it may take, which the number of steps is fitted to (default: 2.5)",
    )
    command.add_argument(
        "--steps", type=_positive(int), metavar="N", help="so many steps whatever the time: the same model each time"
    )


def _positive(kind):
    """A type for argparse that refuses what is not above 0."""

    def read(text):
        if not kind(text) > 0:
            raise ValueError(text)
        return kind(text)

    read.__name__ = f"positive {kind.__name__}"  # argparse says "invalid positive int value"
    return read


def _add_plan(commands):
    command = _add_command(
        commands,
        "plan",
        "say what training a model will take: memory by part, time, energy and money",
        "\nAnd what makes it fit where it does not. No model is made.",
    )
    add_plan_arguments(command, _positive)


def _add_scale(commands):
    command = _add_command(
        commands,
        "scale",
        "train small models, and say by the law of their losses what a larger budget is best spent on",
        "\nSize, tokens and learning rate, with the loss that is foreseen and how sure that is.",
    )
    add_scale_arguments(command, _positive)


def _add_prepare(commands):
    command = _add_command(
        commands,
        "prepare",
        "clean, deduplicate and tokenize a corpus of any size into a folder that runs are trained from",
        "\nOn this machine, or by Apache Beam on many processes or machines: the same documents stay.",
    )
    add_prepare_arguments(command, _positive)


def _add_train(commands):
    command = _add_command(
        commands,
        "train",
        "train a language model on text and write one run folder",
        "\nThe folder holds the model, the tokenizer, the log and plot of the run, its settings and its results.",
    )
    command.add_argument("--config", metavar="YAML", help="file of settings: these names, with underscores; flags win")
    command.add_argument("--resume", metavar="RUN", help="go on with an unfinished run; takes no other settings")
    command.add_argument("--force", action="store_true", help="begin also where memory is foreseen to run out")
    add_mesh_argument(command)
    add_process_arguments(command)
    for setting in dataclasses.fields(TrainSettings):
        if setting.name != "model":
            add_setting(command, setting.name, setting.metadata, setting.default)
            continue
        for name, about in MODEL_FLAGS.items():
            add_setting(command, name, about)
        add_field(command)


def _add_tune(commands):
    command = _add_command(
        commands,
        "tune",
        "have a model learn to answer, from conversations",
        "\nThe answers alone are learned. The run folder holds what was learned beside the model; with --adapter none, "
        "all.",
    )
    command.add_argument("--config", metavar="YAML", help="file of settings: these names, with underscores; flags win")
    command.add_argument("--resume", metavar="RUN", help="go on with an unfinished run; takes no other settings")
    settings = sorted(dataclasses.fields(TrainSettings), key=lambda setting: setting.name not in ("base", "data"))
    tasks = {name: task for name, task in TASKS.items() if task.tunes}
    of_task = {"help": "; ".join(f"{name} {task.learns}" for name, task in tasks.items()), "choices": tuple(tasks)}
    unused = set.intersection(*({*task.unused_settings} for task in tasks.values()))
    defaults = {**TuneTask.defaults({}), "task": TuneTask.name}
    for setting in settings:
        if setting.name in ("model", *unused):
            continue
        help = OF_TUNE.get(setting.name, setting.metadata["help"].removeprefix("tune only: "))
        default, first = defaults.get(setting.name, setting.default), ["model"] if setting.name == "base" else []
        about = {**setting.metadata, **(of_task if setting.name == "task" else {"help": help})}
        add_setting(command, setting.name, about, default, first)
    for name in TuneTask.fields:
        add_setting(command, name, {**MODEL_FLAGS[name], "help": OF_TUNE.get(name, MODEL_FLAGS[name]["help"])})
    add_field(command)


def given_settings(arguments):
    """The settings that the command line of `train` gives, as a YAML file would give them."""
    names = [*(setting.name for setting in dataclasses.fields(TrainSettings)), *MODEL_FLAGS]
    given = {name: value for name, value in vars(arguments).items() if name in names}
    if "model" in given:
        given["model"] = read_fields(given["model"])
    return {name: True if value == [] else value for name, value in given.items()}


def _add_evaluate(commands):
    command = _add_command(commands, "evaluate", "measure a trained model on text, or in tasks")
    add_evaluate_arguments(command, _add_model)


def _add_generate(commands):
    command = _add_command(commands, "generate", "continue a prompt, printing the text as it is made")
    _add_model(command)
    command.add_argument("--prompt", required=True, metavar="TEXT", help="text to continue")
    add_drawing_arguments(command)


def _add_chat(commands):
    command = _add_command(
        commands,
        "chat",
        "talk to a model, a line for each message, until Ctrl-D",
        "\nThe model needs a chat template, as those in Hugging Face's format have that were trained to chat."
        "\nTo a model that sees, a line `/image FILE` shows an image or a video with the next message.",
    )
    _add_model(command)
    command.add_argument(
        "--image", action="append", metavar="FILE", help="image or video of the first message; may be repeated"
    )
    add_shown_arguments(command)
    command.add_argument("--system", metavar="TEXT", help="what the model is told before the first message")
    command.add_argument(
        "--shorten", action="store_true", help="leave out the oldest turns of a chat that outgrows the model's context"
    )
    add_drawing_arguments(command)


def _add_serve(commands):
    command = _add_command(commands, "serve", "serve models to OpenAI's clients, with a page to chat on, until Ctrl-C")
    add_serve_arguments(command, _positive)


def _add_model(command, which=None):
    """The flags of a model, which is required but where it is one of a group."""
    (which or command).add_argument(
        "--model",
        "--run",
        required=which is None,
        metavar="FOLDER",
        help="run folder of the model, a folder or repository (owner/name) in Hugging Face's format, or a .gguf file",
    )
    command.add_argument("--quantize", metavar="KIND", help=QUANTIZE)


def _add_translate(commands):
    command = _add_command(commands, "translate", "translate sentences, a line for each")
    _add_model(command)
    add_translate_arguments(command)


def _add_caption(commands):
    command = _add_command(commands, "caption", "write what images show, or answer a question about them, a line each")
    _add_model(command)
    add_caption_arguments(command)
    add_drawing_arguments(command)


def _add_classify(commands):
    command = _add_command(
        commands, "classify", "say which label texts have, a line for each: label, probability, text"
    )
    _add_model(command)
    add_classify_arguments(command)


def _add_detect(commands):
    command = _add_command(
        commands, "detect", "say whether texts bear a watermark, a line for each: yes or no, z-score, p-value, text"
    )
    add_detect_arguments(command)


def _add_audit(commands):
    add_audit_arguments(
        _add_command(commands, "audit", "measure what is unfair or unsafe in a model, or kept by heart, in one report")
    )


def _add_explain(commands):
    command = _add_command(
        commands,
        "explain",
        "write a page about a prediction: which tokens meant most, what each layer would say, where heads looked",
    )
    _add_model(command)
    add_explain_arguments(command)


def _add_inspect(commands):
    command = _add_command(
        commands,
        "inspect",
        "show what a run folder holds, and check that its files are those that were saved",
        "\nA file that is damaged is named, and the exit code is then 2.",
    )
    command.add_argument("run", metavar="RUN", help="run folder, finished or not, or a checkpoint")


def _add_bench(commands):
    command = _add_command(
        commands,
        "bench",
        "measure speed and memory beside KerasHub and transformers, where they are installed",
        "\nPrograms take turns, each in a process of its own, and are compared round by round.",
    )
    add_bench_arguments(command)


def _add_choose(commands):
    command = _add_command(
        commands,
        "choose",
        "say which of several models to take, by what they do on a sample of your own",
        "\nThe worse ones are measured on little of it.",
    )
    add_choose_arguments(command, _positive)


def _add_merge(commands):
    command = _add_command(
        commands,
        "merge",
        "write a model with adapters as an ordinary run folder, what they learned in its kernels",
        "\nThe folder needs no base then, and the model takes no longer than the base does.",
    )
    command.add_argument("model", metavar="RUN", help="run folder of a tuned model")
    command.add_argument("folder", metavar="OUT", help="run folder to make")


def _add_runs(commands):
    command = _add_command(commands, "runs", "compare the runs in a folder, finished or not, in a table and a plot")
    command.add_argument("folder", metavar="DIR", help="folder with run folders in it")
    command.add_argument("--plot", metavar="FILE", help="draw their losses into this .png file")
    command.add_argument("--json", action="store_true", help="print JSON in place of the table")


def _add_export(commands):
    command = _add_command(
        commands, "export", "write a trained model as a TensorFlow SavedModel, or for the edge, and check it"
    )
    add_export_arguments(command, _positive)


def _add_convert(commands):
    add_convert_arguments(_add_command(commands, "convert", "write a model in another format"))
