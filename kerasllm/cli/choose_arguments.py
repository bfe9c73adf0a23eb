"""The flags of `kerasllm choose`."""

CHOICES = ("generate", "translate", "classify", "embed")


def add_choose_arguments(command, positive):
    """Adds them to a command; `positive` makes types of numbers above 0."""
    command.add_argument("--task", choices=CHOICES, required=True, help="what the model is for")
    command.add_argument("--data", nargs="+", required=True, metavar="PATH", help="the sample, as in evaluate")
    command.add_argument("--field", nargs="+", default=(), metavar="NAME", help="columns or fields of --data, likewise")
    command.add_argument(
        "--candidates",
        nargs="+",
        required=True,
        metavar="MODEL",
        help="run folders, folders or repositories in Hugging Face's format, .gguf files; presets for their size",
    )
    command.add_argument("--memory", metavar="SIZE", help="what there is for weights and cache, such as 8GB")
    command.add_argument(
        "--latency-ms",
        type=positive(float),
        metavar="X",
        help="the most until a token, a translation, a label or a vector",
    )
    command.add_argument("--plot", metavar="FILE", help="draw figure against memory into this .png file")
    command.add_argument("--json", action="store_true", help="print JSON in place of the table")
