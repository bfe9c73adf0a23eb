"""The flags of watermarks: of the commands that write them, and of `kerasllm detect`."""


def add_watermark_argument(command, required=False):
    """Adds that of the settings, in a file."""
    command.add_argument(
        "--watermark",
        required=required,
        metavar="JSON",
        help='file of the settings of a watermark, with the names of transformers: {"greenlist_ratio": 0.25, '
        '"hashing_key": 1234567} for a green list, {"keys": [654, 400, ...], "ngram_len": 5} for SynthID',
    )


def add_detect_arguments(command):
    """Adds those of `detect`."""
    command.add_argument(
        "--model", "--run", required=True, metavar="FOLDER", help="model that may have written them: its tokenizer"
    )
    add_watermark_argument(command, required=True)
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", action="append", metavar="TEXT", help="a text; may be repeated")
    source.add_argument("--file", nargs="+", metavar="PATH", help="files, of one text each")
    limit = command.add_mutually_exclusive_group()
    limit.add_argument("--threshold", type=float, metavar="Z", help="z-score that counts as marked (default: 3)")
    limit.add_argument(
        "--calibrate",
        nargs="+",
        metavar="PATH",
        help="texts that people wrote, as long as those to be looked at, by which the threshold is found",
    )
    command.add_argument("--rate", type=float, metavar="X", help="share of those that may seem marked (default: 0.01)")
    command.add_argument(
        "--repeated", action="store_true", help="count what a text repeats as often, as transformers does by default"
    )
    command.add_argument("--json", action="store_true", help="print JSON, a line for each text")
