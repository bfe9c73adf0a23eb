"""A corpus made ready by one process, document by document, in bounded memory but for the hashes of documents."""

import contextlib

from kerasllm.data.deduplication import deduplicate
from kerasllm.data.filtering import Report
from kerasllm.data.token_writing import TokenWriter
from kerasllm.preparation.chunks import chunks_of, shard_of
from kerasllm.preparation.job import DEDUPLICATE, DocumentRules, added


def run(job, folder, progress):
    """Does a `Job`.

    Args:
        job: `Job`.
        folder: path of the folder to write the shards to.
        progress: function (documents, text bytes, tokens so far) that is called now and then.

    Returns:
        What `TokenWriter` says of each shard, and the report.
    """
    rules, report = DocumentRules(job), {}
    duplicates = deduplicate(())
    outcome_of, of_duplicates = duplicates.new_filter(), Report(duplicates.rules)
    with contextlib.ExitStack() as stack:
        shards = range(job.num_shards)
        writers = [stack.enter_context(TokenWriter(folder, job.tokenizer, shard)) for shard in shards]
        for number, group in enumerate(job.groups):
            for chunk in chunks_of(number, group):
                _, texts, counts = rules.apply(chunk.documents)
                report = added([report, counts])
                if job.deduplicate:
                    texts = _unique(texts, outcome_of, of_duplicates)
                for _ in writers[shard_of(chunk.number, job.num_shards)].add(texts):
                    pass
                progress(*(sum(writer.counts[name] for writer in writers) for name in _SHOWN))
    if job.deduplicate:
        report[DEDUPLICATE] = of_duplicates.to_dict()
    return [{**writer.counts, "sha256": writer.sha256} for writer in writers], report


_SHOWN = "num_documents", "num_bytes", "num_tokens"


def _unique(texts, outcome_of, report):
    kept = []
    for text in texts:
        outcome = outcome_of(text)
        report.add(text, outcome)
        if outcome.text is not None:
            kept.append(text)
    return kept
