"""The flags of `kerasllm caption`."""


def add_caption_arguments(command):
    """Adds them to the command."""
    command.add_argument("image", nargs="+", metavar="IMAGE", help="PNG, JPEG, WebP or GIF file")
    command.add_argument(
        "--prompt", default="", metavar="TEXT", help="what stands behind the image: a question, or a beginning"
    )
    command.add_argument(
        "--processor", metavar="FOLDER", help="where the preprocessor_config.json is (default: in the model's folder)"
    )
    command.add_argument("--json", action="store_true", help="print JSON")
