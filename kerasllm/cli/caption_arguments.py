"""The flags of `kerasllm caption`."""

from kerasllm.cli.shown_files import add_shown_arguments


def add_caption_arguments(command):
    """Adds them to the command."""
    command.add_argument(
        "image", nargs="+", metavar="IMAGE", help="PNG, JPEG, WebP or GIF file, or an MP4, MOV, WebM, MKV or AVI video"
    )
    command.add_argument(
        "--prompt", default="", metavar="TEXT", help="what stands behind the image: a question, or a beginning"
    )
    add_shown_arguments(command)
    command.add_argument("--json", action="store_true", help="print JSON")
