"""The flags of `kerasllm evaluate --tasks`."""

# Those beside --tasks, of all tasks and of those of one kind.
OF_TASKS = ("limit",)
OF_HARNESS = ("few_shot", "chat")
OF_OFFLINE = ("text", "context", "seed", "plot", "checkpoints")


def add_harness_arguments(command, what):
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
