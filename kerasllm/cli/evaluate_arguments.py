"""The flags of `kerasllm evaluate`."""

from kerasllm.cli.dialogue_arguments import add_dialogue_arguments

# Those beside --tasks, of all tasks and of those of one kind.
OF_TASKS = ("limit",)
OF_HARNESS = ("few_shot", "chat")
OF_OFFLINE = ("text", "context", "seed", "plot", "checkpoints")


def add_evaluate_arguments(command, add_model):
    """Adds all of them; `add_model` adds those of a model to a command, of which one to a group."""
    which = command.add_mutually_exclusive_group(required=True)
    add_model(command, which)
    which.add_argument(
        "--compare",
        nargs="+",
        metavar="FOLDER",
        help="two models in the same --tasks, item by item; or models whose answers to questions a --judge compares",
    )
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", nargs="+", metavar="PATH", help="text or pairs, as in train; for a --judge, questions")
    _add_tasks(command, what)
    command.add_argument("--field", nargs="+", default=(), metavar="NAME", help="where the text is, as in train")
    command.add_argument(
        "--stride", type=int, metavar="TOKENS", help="step between windows; smaller gives each token more context"
    )
    add_dialogue_arguments(command)
    command.add_argument("--json", action="store_true", help="print JSON in place of the table")
    command.add_argument("--out", metavar="FILE", help="write the JSON into this file too")


def _add_tasks(command, what):
    what.add_argument(
        "--tasks",
        nargs="+",
        metavar="TASK",
        help="what it can do, without download: cloze, minimal_pairs, arithmetic, copying, induction, needle, "
        "instructions, or .jsonl files in the format of BLiMP or IFEval; or tasks of lm-evaluation-harness, by name or "
        "as folders of your own",
    )
    command.add_argument("--limit", type=int, metavar="N", help="tasks: at most so many questions of each")
    command.add_argument(
        "--text", nargs="+", metavar="PATH", help="tasks: what cloze and needle are made of (default: python_docs)"
    )
    command.add_argument(
        "--context", type=int, metavar="TOKENS", help="tasks: the longest question (default: the model's, or 2048)"
    )
    command.add_argument("--seed", type=int, metavar="N", help="tasks: another makes other questions (default: 0)")
    command.add_argument("--plot", metavar="FILE", help="tasks: draw the accuracies into this .png file")
    command.add_argument(
        "--checkpoints", action="store_true", default=None, help="tasks: of each checkpoint of the run, step by step"
    )
    command.add_argument("--few-shot", type=int, metavar="N", help="harness: so many examples before each question")
    command.add_argument("--chat", action="store_true", default=None, help="harness: put questions as a chat")
