"""Files of images and videos that commands show to a model, and what makes pixel values of them."""


def add_shown_arguments(command):
    """Adds the flags that say how."""
    command.add_argument(
        "--processor", metavar="FOLDER", help="where the preprocessor_config.json is (default: in the model's folder)"
    )
    command.add_argument(
        "--max-frames", type=int, default=64, metavar="N", help="most frames that are taken of a video (default: 64)"
    )


def shown_part(file, arguments):
    """A file as a part of a message; it is decoded now.

    Raises:
        FileNotFoundError, ValueError, ImportError: see `images.read_image` and `images.read_video`.
    """
    from kerasllm import images
    from kerasllm.images.shown import is_video

    if is_video(file):
        return {"type": "video", "video": images.read_video(file, arguments.max_frames)}
    return {"type": "image", "image": images.read_image(file)}


def processor_of(model, arguments):
    """The `ImageProcessor` of a model that is to see.

    Raises:
        TypeError: if it does not see.
        FileNotFoundError: if nothing says how its images are made.
    """
    import kerasllm

    if not isinstance(model, kerasllm.models.VisionLanguageModel):
        raise TypeError(f"A VisionLanguageModel sees images, and {arguments.model} has a {type(model).__name__}.")
    if arguments.processor:
        return kerasllm.images.ImageProcessor.load(arguments.processor)
    return getattr(model, "image_processor", None) or kerasllm.images.ImageProcessor.load(arguments.model)
