"""The flags of `kerasllm export` and `kerasllm convert`: in which format a model is written."""

CONVERTED = ("run", "huggingface", "saved-model", "gguf")
EXPORTED = ("saved-model", "litert", "onnx")
GGUF_TYPES = ("F32", "F16", "BF16", "Q8_0")


def add_export_arguments(command, positive):
    """Adds those of `export` to a parser; `positive` makes a type of numbers above 0."""
    command.add_argument("model", metavar="RUN", help="run folder of the model, or a folder in Hugging Face's format")
    command.add_argument("folder", metavar="OUT", help="folder to make; with --to litert a file, .litertlm or .tflite")
    command.add_argument("--to", choices=EXPORTED, default="saved-model", help="format (default: saved-model)")
    _add_saved_model(command)
    command.add_argument("--quantize", choices=("int8", "int4"), help="kernels in 8 or 4 bits (litert)")
    command.add_argument(
        "--context",
        type=positive(int),
        metavar="N",
        help="the most tokens of prompt and answer together (litert; default: the model's, up to 2048)",
    )


def add_convert_arguments(command):
    """Adds those of `convert` to a parser."""
    command.add_argument("model", metavar="SOURCE", help="run folder, folder in Hugging Face's format, or .gguf file")
    command.add_argument("folder", metavar="DESTINATION", help="folder to make, or .gguf file")
    command.add_argument(
        "--to",
        choices=CONVERTED,
        help="format to write (default: GGUF where the name ends so; else a run folder from Hugging Face's format and "
        "from GGUF, and Hugging Face's format from a run folder)",
    )
    command.add_argument(
        "--dtype", choices=GGUF_TYPES, default="F16", help="type of the matrices of a GGUF file (default: F16)"
    )
    _add_saved_model(command)


def _add_saved_model(command):
    command.add_argument(
        "--compiled",
        action="store_true",
        help="a SavedModel whose loop XLA compiles when it first runs: quicker, where the server has XLA",
    )
    command.add_argument(
        "--constraint",
        action="append",
        metavar="NAME=PATTERN",
        help="a SavedModel whose texts may be held to this regular expression; may be repeated",
    )
    command.add_argument(
        "--ids",
        action="store_true",
        help="a SavedModel that takes and gives token ids alone, where the tokenizer cannot run in a graph",
    )
