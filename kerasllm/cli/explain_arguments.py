"""The flags of `kerasllm explain`, beside the model."""

_METHODS = ("integrated_gradients", "gradient_x_input", "occlusion")


def add_explain_arguments(command):
    """Adds them to a command."""
    command.add_argument("--text", required=True, metavar="TEXT", help="what is continued, translated or classified")
    command.add_argument(
        "--image", metavar="FILE", help="what the text is about, for a model that sees: what of it meant most"
    )
    command.add_argument(
        "--processor", metavar="FOLDER", help="where the preprocessor_config.json is (default: in the model's folder)"
    )
    command.add_argument(
        "--target", metavar="TEXT", help="the continuation, translation or label to explain (default: the likeliest)"
    )
    command.add_argument("--contrast", metavar="TEXT", help="explain why the target and not this")
    command.add_argument(
        "--method",
        choices=_METHODS,
        default=_METHODS[0],
        help="what tokens mean is found by this (default: integrated_gradients)",
    )
    command.add_argument("--out", required=True, metavar="FILE", help="page to write, a file that ends in .html")
