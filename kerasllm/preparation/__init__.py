"""A corpus made ready to train on: cleaned, without duplicates, tokenized into shards.

One machine does it document by document (one_machine.py), many do it by Apache Beam (pipeline.py). Both ask the rules
of `kerasllm.data` and write the same bytes. job.py says what is to be done, chunks.py in which pieces, duplicates.py
how duplicates are found that are far apart. Next: `kerasllm train --data TOKENS`.
"""

from kerasllm.preparation.preparing import prepare

__all__ = ["prepare"]
