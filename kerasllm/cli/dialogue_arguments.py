"""The flags of `kerasllm evaluate --task dialogue`."""

# Those beside --task.
OF_DIALOGUE = ("judge", "candidates", "min_safety", "documents")


def add_dialogue_arguments(command):
    command.add_argument(
        "--task", choices=("dialogue",), help="have the model reply in dialogues, and judge the replies"
    )
    command.add_argument(
        "--judge",
        metavar="FOLDER",
        help="what judges replies (default: the model itself), or for --compare the answers to --data",
    )
    command.add_argument("--candidates", type=int, metavar="N", help="dialogue: replies to choose from (default: 16)")
    command.add_argument(
        "--min-safety", type=float, metavar="P", help="dialogue: the least probability of being safe (default: 0.5)"
    )
    command.add_argument("--documents", metavar="PATH", help="dialogue: a folder of texts that the model may search")
