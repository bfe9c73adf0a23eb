"""The flags of `kerasllm evaluate --tasks`."""

# Those beside --tasks.
OF_TASKS = ("limit", "few_shot", "chat")


def add_harness_arguments(command, what):
    what.add_argument(
        "--tasks", nargs="+", metavar="TASK", help="tasks of lm-evaluation-harness, by name or as folders of your own"
    )
    command.add_argument("--limit", type=int, metavar="N", help="tasks: at most so many questions of each")
    command.add_argument("--few-shot", type=int, metavar="N", help="tasks: so many examples before each question")
    command.add_argument("--chat", action="store_true", default=None, help="tasks: put questions as a chat")
