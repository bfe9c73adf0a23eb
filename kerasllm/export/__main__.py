"""`python -m kerasllm.export SOURCE FOLDER`: the export of a model from another backend, see `serving.saved_model`."""

import sys

from kerasllm.export.serving import write_from_files

if __name__ == "__main__":
    write_from_files(*sys.argv[1:])
