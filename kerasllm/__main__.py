"""`python -m kerasllm` is the `kerasllm` command."""

import sys

from kerasllm.cli import main

sys.exit(main())
