"""Records: the rows of tables and the objects of JSON files, one after the other, and the texts in them.

A record is a dict, or a str where a file holds bare strings. A field inside another one has the name "outer.inner".
"""

import csv
import itertools
import json

from kerasllm.data.formats import CSV, JSON, JSON_LINES, PARQUET, TSV, read_lines

TEXT_FIELD = "text"
_SAMPLE = 100  # records that are looked at to tell which fields are texts
_DELIMITERS = ",;\t|"
_LONGEST_CELL = 2**27  # characters
_LONGEST_QUOTED = 2**22  # in a file that may have no quoted cells at all: beyond that a quote has no other end


def read_texts(path, kind, field, left_out):
    """The texts of a file of records.

    Args:
        path: path of a file.
        kind: its kind, as `formats.kind_of` says, not text.
        field: str, the field that holds the text; None for "text", or else the only one with text.
        left_out: function that is called with the place of each record whose text is null.

    Raises:
        ValueError: for a record that has no such text, a field that is not plain, and as `read_records`.
    """
    return texts_of(read_records(path, kind, [] if field is None else [field]), path, field, left_out)


def texts_of(records, source, field, left_out):
    """The texts of records that come with their places; `source` is where from, the others as in `read_texts`."""
    records, sample = _sampled(records)
    if sample:
        field = _only_text(source, sample) if field is None else known_as(field, leaf_names(sample))
    for place, record in records:
        text = record if isinstance(record, str) else value_at(record, field, place)
        if text is None:
            left_out(place)
        elif isinstance(text, str):
            yield text
        else:
            raise ValueError(f"{place} has no text in a field {field!r}: it has a {type(text).__name__}.")


def read_text_pairs(path, kind, fields):
    """Pairs of texts of a file of records; "" for null.

    Args:
        path, kind: as in `read_texts`.
        fields: two str or int, or None where the file has two fields with text.

    Raises:
        ValueError: as `read_texts`.
    """
    fields = fields and [str(field) for field in fields]
    records, sample = _sampled(read_records(path, kind, fields or []))
    if sample:
        names = leaf_names(sample)
        fields = [known_as(field, names) for field in fields] if fields else text_names(sample)
        if len(fields) != 2:
            raise ValueError(
                f"{path} has no pair by itself, as it has {_listed(names)}: name two of them with columns=, the "
                "source's and the target's (--field on the command line)."
            )
    for place, record in records:
        pair = [value_at(record, field, place) for field in fields]
        for field, text in zip(fields, pair, strict=True):
            if not isinstance(text, str | None):
                raise ValueError(f"{place} has no text in a field {field!r}: it has a {type(text).__name__}.")
        yield tuple(text or "" for text in pair)


def read_records(path, kind, fields=(), is_record=lambda value: False):
    """The records of a file, each with its place: ("FILE, line 3", record).

    Args:
        path, kind: as in `read_texts`.
        fields: list of str, those that are to be read, which may hold lists. Where they are numbers and not among the
            names in a table's first line, that line is a record like the others, and they count its columns from 0.
        is_record: function that says of what a JSON file holds whether it is a record, and not several.

    Raises:
        ValueError: for what is not JSON, CSV or Parquet, with the place.
    """
    readers = {
        JSON_LINES: lambda: _parsed(path, enumerate(read_lines(path), start=1)),
        JSON: lambda: _read_json(path, is_record),
        CSV: lambda: _read_table(path, _read_csv(path, _delimiter(path)), fields),
        TSV: lambda: _read_table(path, read_tabs(path, kind), fields),
        PARQUET: lambda: _read_parquet(path, fields),
    }
    return readers[kind]()


def read_tabs(path, kind):
    """The rows of a file with tabs between its cells, each with the number of its first line: (3, ["a", "b"]).

    Cells may be in quotes, as spreadsheets write them, and then hold tabs and line ends, where that reads all of a .tsv
    file as rows of one length. In other files a quote is a quote.
    """
    may_be_quoted = kind == TSV
    for number, line in enumerate(read_lines(path), start=1):
        if may_be_quoted and _has_two_readings(line):  # Only then is the whole file looked at first.
            if _width(path, "\t"):
                yield from ((place, cells) for place, cells in _read_csv(path, "\t") if place >= number)
                return
            may_be_quoted = False
        if line and not line.isspace():
            yield number, line.removesuffix("\r").split("\t")


def _has_two_readings(line):
    """Whether a line of a .tsv file may be other cells, or none, where cells can be in quotes."""
    return '"' in line or "\r" in line[:-1] or (line.isspace() and line != "\r")


def text_names(records):
    """The names of the fields that hold text in some of the records: strings that are not numbers."""
    return list(dict.fromkeys(name for record in records for name, value in _leaves(record) if _is_text(value)))


def leaf_names(records):
    """The names of all fields in some records that are not made of others."""
    return list(dict.fromkeys(name for record in records for name, _ in _leaves(record)))


def known_as(name, names):
    """The one of `names` that a user means: "de" or "translation/de" for "translation.de"; else the name as it is."""
    dotted = {known.replace("/", "."): known for known in names}
    if name in names:
        return name
    if name.replace("/", ".") in dotted:
        return dotted[name.replace("/", ".")]
    inner = [known for dots, known in dotted.items() if dots.split(".")[-1] == name]
    return inner[0] if len(inner) == 1 else name


def value_at(record, name, place):
    """The value of a field of a record; None where it, or what it is inside of, is null."""
    if isinstance(record, dict):
        if name in record:
            return record[name]
        value = record
        for part in name.split("."):
            if value is None:
                return None
            if not isinstance(value, dict) or part not in value:
                break
            value = value[part]
        else:
            return value
    found = f"the fields {leaf_names([record])}" if isinstance(record, dict) else f"a {type(record).__name__}"
    raise ValueError(f"{place} has no text in a field {name!r}: it has {found}. Name the field with field= (--field).")


def _sampled(records):
    sample = list(itertools.islice(records, _SAMPLE))
    return itertools.chain(sample, records), [record for _, record in sample if isinstance(record, dict)]


def _only_text(path, sample):
    names, texts = leaf_names(sample), text_names(sample)
    if TEXT_FIELD in names:
        return TEXT_FIELD
    if len(texts) == 1:
        return texts[0]
    raise ValueError(
        f"{path} has {_listed(names)}, and which of them is the text is not plain: name it with field= (--field on the "
        "command line)."
    )


def _listed(names):
    return f"the columns {', '.join(map(repr, names))}" if names else "no column with text"


def _leaves(record, prefix=""):
    if isinstance(record, dict):
        for name, value in record.items():
            if isinstance(value, dict):
                yield from _leaves(value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", value


def _is_text(value):
    if not isinstance(value, str) or not value.strip():
        return False
    try:
        float(value)
    except ValueError:
        return True
    return False


# JSON


def _parsed(path, numbered_lines):
    for number, line in numbered_lines:
        if line and not line.isspace():
            place = f"{path}, line {number}"
            yield place, _loads(line, place)


def _read_json(path, is_record):
    """A JSON file is one value, or, as many programs write it under this name too, one on each line."""
    lines = enumerate(read_lines(path), start=1)
    begin, filled = [], []  # the lines up to the second that is not blank, and those two
    while len(filled) < 2 and (numbered := next(lines, None)):
        begin.append(numbered)
        filled += [numbered[1]] if numbered[1].strip() else []
    if len(filled) == 2 and _is_json(filled[0]):
        yield from _parsed(path, itertools.chain(begin, lines))
        return
    text = "\n".join(line for _, line in itertools.chain(begin, lines))
    value = _loads(text, path) if filled else []
    for number, record in enumerate([value] if is_record(value) else _rows_of(value), start=1):
        yield f"{path}, record {number}", record


def _rows_of(value):
    """The records in what a JSON file holds: a list of them, alone or beside other things, or columns."""
    if isinstance(value, list):
        return value
    if not isinstance(value, dict):
        return [value]
    lists = [part for part in value.values() if isinstance(part, list) and part and isinstance(part[0], dict)]
    if len(lists) == 1:
        return lists[0]
    columns = [list(part.values()) if _is_series(part) else part for part in value.values()]
    if all(isinstance(column, list) for column in columns) and len(set(map(len, columns))) == 1:
        return [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]
    return [value]


def _is_series(value):
    """Whether this is a column as pandas writes it: {"0": …, "1": …}."""
    return isinstance(value, dict) and all(name.isdecimal() for name in value)


def _is_json(text):
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _loads(text, place):
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} is not JSON: {error}.") from error


# Tables


def _read_table(path, rows, fields):
    first, header = next(rows, (None, None))
    if header is None:
        return
    if fields and not set(fields) & set(header) and all(field.isdecimal() for field in fields):
        rows, header = itertools.chain([(first, header)], rows), [str(number) for number in range(len(header))]
    for number, cells in rows:
        if len(cells) != len(header):
            raise ValueError(
                f"{path}, line {number} has {len(cells)} columns where the first line has {len(header)}: put in what "
                "is missing, or quotes around a cell that holds a delimiter or a line end."
            )
        yield f"{path}, line {number}", dict(zip(header, cells, strict=True))


def _read_csv(path, delimiter, longest=_LONGEST_CELL):
    csv.field_size_limit(longest)  # a cell is a document, and Python's own limit is 131,072 characters
    reader = csv.reader((f"{line}\n" for line in read_lines(path)), delimiter=delimiter, strict=True)
    while True:
        begin = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(f"{path}, line {begin} begins a row that is not {CSV}: {error}.") from error
        if cells:
            yield begin, cells


def _delimiter(path):
    """What parts the cells: what makes the most of the first rows, all alike; a comma where nothing does."""
    widths = {delimiter: _width(path, delimiter, _SAMPLE) for delimiter in _DELIMITERS}
    return max(widths, key=lambda delimiter: max(widths[delimiter], 1))


def _width(path, delimiter, most=None):
    """How many cells all rows have, or the first `most` of them; 0 where they differ or are no rows."""
    before = csv.field_size_limit()
    try:
        rows = itertools.islice(_read_csv(path, delimiter, _LONGEST_QUOTED), most)
        widths = {len(cells) for _, cells in rows}
    except ValueError:
        return 0
    finally:
        csv.field_size_limit(before)
    return widths.pop() if len(widths) == 1 else 0


def _read_parquet(path, fields):
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{path} is a {PARQUET} file, and the package pyarrow is not installed: pip install pyarrow."
        ) from error
    try:
        file = pyarrow.parquet.ParquetFile(path.open("rb"))
        number = 0
        # Numbers, lists, pictures and the like are no text, and reading them takes time.
        columns = [c.name for c in file.schema_arrow if c.name in fields or _may_hold_text(pyarrow.types, c.type)]
        for batch in file.iter_batches(batch_size=1024, columns=columns):
            for record in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", record
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path} is not a whole {PARQUET} file: {error}.") from error


def _may_hold_text(types, kind):
    tests = types.is_string, types.is_large_string, types.is_string_view, types.is_struct, types.is_dictionary
    return any(test(kind) for test in tests)
