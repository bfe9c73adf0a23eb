"""A corpus made ready by Apache Beam, on the processes or machines of whatever runner it is given.

Each chunk is read, cleaned and hashed in one go. Texts then go to the shard that they will be in; hashes go to where
those of duplicates meet, and what is found there goes to the shards too, which leave those documents out, tokenize the
others and write them. So the text is sent once. Elements are chunks and arrays, not documents, as runners take their
time for each. A worker that fails is begun anew by the runner, and files appear when they are whole: nothing is lost or
doubled.
"""

import operator

import apache_beam as beam
import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions

from kerasllm.data.filtering import Outcome, Report
from kerasllm.data.token_writing import TokenWriter
from kerasllm.data.words import mix
from kerasllm.preparation import duplicates
from kerasllm.preparation.chunks import chunks_of, document_numbers, shard_of
from kerasllm.preparation.duplicates import BANDS, DIGESTS, LINKS, MOST_PARTITIONS, Hasher, whole
from kerasllm.preparation.job import DEDUPLICATE, DocumentRules, added

_TEXTS, _EXACT, _NEAR = "texts", "exact_duplicate", "near_duplicate"
_DIGESTS, _BANDS, _SIGNATURES, _REPORTS = "digests", "bands", "signatures", "reports"


def run(job, folder, options, finish):
    """Does a `Job`.

    Args:
        job: `Job`.
        folder: path of the folder to write the shards to, which the workers see.
        options: list of str, Beam's own, with the runner.
        finish: function (list of what `TokenWriter` says of each shard, report) that a worker calls at the end.
    """
    num_partitions = min(job.num_shards, MOST_PARTITIONS)
    with beam.Pipeline(options=PipelineOptions(options)) as pipeline:
        numbers = pipeline | "groups" >> beam.Create(range(len(job.groups))) | beam.Reshuffle()
        outputs = numbers | "read" >> beam.ParDo(_Read(job, num_partitions)).with_outputs(
            _DIGESTS, _BANDS, _SIGNATURES, _REPORTS, main=_TEXTS
        )
        shards = {_TEXTS: (outputs[_TEXTS], pipeline | "shards" >> _shards(job)) | "texts" >> beam.Flatten()}
        if job.deduplicate:
            shards[_EXACT] = _exact_duplicates(outputs, job)
            shards[_NEAR] = _near_duplicates(outputs, job, num_partitions)
        written = shards | "by shard" >> beam.CoGroupByKey() | "write" >> beam.ParDo(_Write(job, folder))
        report = outputs[_REPORTS] | "reports" >> beam.CombineGlobally(added)
        _ = (
            pipeline
            | "end" >> beam.Create([None])
            | beam.Map(_finish, beam.pvalue.AsList(written), beam.pvalue.AsSingleton(report), finish)
        )


def _shards(job):
    """All of them, as some may get no text."""
    return beam.Create([(shard, None) for shard in range(job.num_shards)])


def _exact_duplicates(outputs, job):
    return outputs[_DIGESTS] | "digests" >> beam.GroupByKey() | "same" >> beam.FlatMap(_same, job.num_shards)


def _same(partition, num_shards):
    documents = duplicates.exact_duplicates(whole(partition[1], DIGESTS))
    return duplicates.by_shard(documents, documents, num_shards)


def _near_duplicates(outputs, job, num_partitions):
    members = (
        outputs[_BANDS]
        | "bands" >> beam.GroupByKey()
        | "links" >> beam.MapTuple(lambda _, bands: duplicates.links(whole(bands, BANDS)).tobytes())
        | "components" >> beam.CombineGlobally(_Components())
        | "members" >> beam.FlatMap(_members, job.num_shards)
    )
    return (
        {_SIGNATURES: outputs[_SIGNATURES], "members": members}
        | "signatures" >> beam.CoGroupByKey()
        | "linked" >> beam.FlatMap(_linked, num_partitions)
        | "by component" >> beam.GroupByKey()
        | "alike" >> beam.FlatMap(_alike, job.num_shards)
    )


class _Components(beam.CombineFn):
    """Links joined to connected components, wherever they come together."""

    def create_accumulator(self):
        return b""

    def add_input(self, accumulator, links):
        return self.merge_accumulators([accumulator, links])

    def merge_accumulators(self, accumulators):
        return duplicates.joined(whole(accumulators, LINKS)).tobytes()

    def extract_output(self, accumulator):
        return accumulator


def _members(components, num_shards):
    links = whole([components], LINKS)
    return duplicates.by_shard(links, links["document"], num_shards)


def _linked(shard, num_partitions):
    found = shard[1]
    members = np.sort(whole(found["members"], LINKS), order="document")
    signatures = whole(found[_SIGNATURES], Hasher().signatures)
    signatures = signatures[np.isin(signatures["document"], members["document"])]
    first = members["first"][np.searchsorted(members["document"], signatures["document"])]
    return duplicates.by_hash(signatures, mix(first), num_partitions)


def _alike(partition, num_shards):
    documents = duplicates.near_duplicates(whole(partition[1], Hasher().signatures))
    return duplicates.by_shard(documents, documents, num_shards)


class _Read(beam.DoFn):
    """Reads, cleans and hashes a group of files, chunk by chunk."""

    def __init__(self, job, num_partitions):
        self._job, self._num_partitions = job, num_partitions

    def setup(self):
        self._rules = DocumentRules(self._job)
        self._hasher = Hasher() if self._job.deduplicate else None

    def process(self, number):
        for chunk in chunks_of(number, self._job.groups[number]):
            places, texts, report = self._rules.apply(chunk.documents)
            yield beam.pvalue.TaggedOutput(_REPORTS, report)
            if texts:
                numbers = document_numbers(chunk.number, places)
                shard = shard_of(chunk.number, self._job.num_shards)
                yield shard, (chunk.number, numbers.tobytes(), texts)
                if self._hasher:
                    yield from self._hashed(shard, numbers, texts)

    def _hashed(self, shard, numbers, texts):
        digests, bands, signatures = self._hasher.hash(numbers, texts)
        for part in duplicates.by_hash(digests, digests["high"], self._num_partitions):
            yield beam.pvalue.TaggedOutput(_DIGESTS, part)
        for part in duplicates.by_hash(bands, bands["key"], self._num_partitions):
            yield beam.pvalue.TaggedOutput(_BANDS, part)
        if len(signatures):
            yield beam.pvalue.TaggedOutput(_SIGNATURES, (shard, signatures.tobytes()))


class _Write(beam.DoFn):
    """Tokenizes and writes what stays of a shard, and says what it was."""

    def __init__(self, job, folder):
        self._job, self._folder = job, folder

    def process(self, element):
        shard, found = element
        removed = {rule: whole(found.get(rule, ()), "<u8") for rule in (_EXACT, _NEAR)}
        report = Report(removed)
        with TokenWriter(self._folder, self._job.tokenizer, shard) as writer:
            for _, numbers, texts in sorted(part for part in found[_TEXTS] if part):
                for _ in writer.add(_kept(whole([numbers], "<u8"), texts, removed, report)):
                    pass
        of_duplicates = {DEDUPLICATE: report.to_dict()} if self._job.deduplicate else {}
        yield shard, {**writer.counts, "sha256": writer.sha256}, of_duplicates


def _kept(numbers, texts, removed, report):
    """Yields the texts that no rule removes, and reports on all."""
    by_rule = {rule: np.isin(numbers, documents).tolist() for rule, documents in removed.items()}
    for place, text in enumerate(texts):
        rule = next((rule for rule, gone in by_rule.items() if gone[place]), None)
        report.add(text, Outcome(None if rule else text, removed_by=rule))
        if not rule:
            yield text


def _finish(_, written, report, finish):
    parts = [part for _, part, _ in sorted(written, key=operator.itemgetter(0))]
    finish(parts, added([report, *(of_shard for _, _, of_shard in written)]))
