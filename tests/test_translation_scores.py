"""Translation scores: the figures and signatures of sacrebleu's command line, and of rouge-score."""

import json
import os
import random
import subprocess
import sys

import pytest

from kerasllm.evaluation import bleu, chrf, rouge, ter, translation_scores

ENGLISH = [
    "The parliament did not vote on Tuesday, but it will tomorrow.",
    "A man in a blue shirt is standing on a ladder, cleaning a window.",
    'She asked: "Who has seen my 3.5 mm cable (the long one)?"',
    "Two dogs play in the snow & nobody watches them.",
    "It's 20% cheaper than last year's model — or so they say…",
] * 4
CHINESE = ["我今天早上在公园里看见了两只狗。", "他们说这个价格比去年便宜百分之20。", "你为什么不早一点告诉我呢？"] * 4


def small_errors(sentences):
    return [s.replace("the", "this", 1).replace("了", "", 1) + " " * (n % 3) for n, s in enumerate(sentences)]


def shuffled(sentences):
    return [" ".join(random.Random(n).sample(words, len(words))) for n, words in enumerate(map(str.split, sentences))]


def command_line(folder, hypotheses, references, *options):
    """What `sacrebleu` prints: a dict of metric name to (score, signature). `references` are lists, one a file."""
    files = []
    for number, lines in enumerate([hypotheses, *references]):
        files.append(folder / f"{number}.txt")
        files[-1].write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", *files[1:], "-i", files[0], *options, "-w", "10", "-f", "json"]
    environment = {name: value for name, value in os.environ.items() if name != "SACREBLEU_FORMAT"}
    printed = json.loads(subprocess.run(command, capture_output=True, check=True, env=environment).stdout)
    printed = printed if isinstance(printed, list) else [printed]
    return {one["name"]: (one["score"], one["signature"]) for one in printed}


def figures(*scores):
    return {score.name: (round(score.score, 10), score.signature) for score in scores}


@pytest.mark.parametrize(
    ("references", "corrupt", "options"),
    [
        (ENGLISH, small_errors, []),
        (ENGLISH, shuffled, []),
        (CHINESE, small_errors, ["--tokenize", "zh", "--ter-normalized", "--ter-asian-support"]),
    ],
    ids=["small errors", "shuffled words", "Chinese"],
)
def test_scores_and_signatures_are_those_of_the_command_line(tmp_path, references, corrupt, options):
    hypotheses = corrupt(references)
    scores = translation_scores(hypotheses, references)
    expected = command_line(tmp_path, hypotheses, [references], "-m", "bleu", "chrf", "ter", *options)
    assert figures(scores.bleu, scores.chrf, scores.ter) == expected
    assert 1 < scores.bleu.score < 99
    assert f"|tok:{'zh' if options else '13a'}|" in scores.bleu.signature


def test_options_are_those_of_the_command_line(tmp_path):
    others = [sentence.upper() for sentence in ENGLISH]
    hypotheses = shuffled(ENGLISH[::2] + others[1::2])
    scores = [
        bleu(hypotheses, zip(ENGLISH, others, strict=True), tokenize="char", lowercase=True),
        chrf(hypotheses, list(zip(ENGLISH, others, strict=True)), lowercase=True, word_order=2),
        ter(hypotheses, list(zip(ENGLISH, others, strict=True))),
    ]
    options = ["-m", "bleu", "chrf", "ter", "-tok", "char", "-lc", "--chrf-lowercase", "--chrf-word-order", "2"]
    assert figures(*scores) == command_line(tmp_path, hypotheses, [ENGLISH, others], *options)
    assert all(score.signature.startswith("nrefs:2|") for score in scores)


def test_several_references_belong_to_one_hypothesis():
    assert (
        bleu(["the cat sat on the mat"] * 2, [["x", "the cat sat on the mat"], ["the cat sat on the mat"]]).score > 99
    )
    score = bleu(["the cat sat on the mat"] * 2, [["x", "the cat sat on the mat"], "the cat sat on the mat"])
    assert score.score == pytest.approx(100) and score.signature.startswith("nrefs:var|")


def test_the_words_are_those_of_the_references_language(monkeypatch):
    for references in (["Er mag 东京."], ["Мама мыла раму."], ["12 + 3"]):
        assert "|tok:13a|" in bleu(["x"], references).signature
    mixed = ["他们用 Python 3 写了一个程序，名字叫做 の。"]
    assert "|tok:zh|" in bleu(mixed, mixed).signature and ter(mixed, mixed).signature.count("asian:yes") == 1
    monkeypatch.setattr("sacrebleu.tokenizers.tokenizer_ja_mecab.MeCab", None)
    monkeypatch.setattr("sacrebleu.tokenizers.tokenizer_ko_mecab.MeCab", None)
    for text, name in [("私は東京に住んでいます。", "ja"), ("나는 서울에 산다.", "ko")]:
        with pytest.raises(ValueError, match=rf"'{name}-mecab' does not work here: .*sacrebleu\[{name}\].*tokenize="):
            translation_scores([text], [text])
        assert bleu([text], [text], tokenize="char").score == pytest.approx(100)


def test_rouge_is_that_of_the_package_it_is_quoted_from():
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rouge1", "rouge2", "rougeL"])
    hypotheses = shuffled(ENGLISH[:3]) + small_errors(ENGLISH[3:])
    scores = translation_scores(hypotheses, ENGLISH, with_rouge=True)
    for variant in ("rouge1", "rouge2", "rougeL"):
        each = [scorer.score(r, h)[variant].fmeasure for h, r in zip(hypotheses, ENGLISH, strict=True)]
        assert getattr(scores, variant).score == pytest.approx(100 * sum(each) / len(each), rel=1e-12)
    assert scores.rouge1.score > scores.rougeL.score > scores.rouge2.score
    assert [line.split()[0] for line in str(scores).splitlines()][3:] == ["ROUGE-1", "ROUGE-2", "ROUGE-L", "scored"]


def test_the_scores_go_into_a_table_and_into_json():
    scores = translation_scores(iter(ENGLISH), iter(ENGLISH))
    assert [line.split()[:2] for line in str(scores).splitlines()] == [
        ["BLEU", "100.00"],
        ["chrF2", "100.00"],
        ["TER", "0.00"],
        ["scored", "20"],
    ]
    written = json.loads(json.dumps(scores.to_dict()))
    assert written["sentences"] == 20 and written["ter"] == {"score": 0, "signature": scores.ter.signature}
    assert written.keys() == {"sentences", "bleu", "chrf", "ter"}


@pytest.mark.parametrize(
    ("hypotheses", "references", "error", "message"),
    [
        ([], [], ValueError, "nothing to score: hypotheses is empty"),
        (["a", "b"], ["a"], ValueError, "2 hypotheses and 1 references: give a str for each"),
        (["a"], ["a", "b"], ValueError, "1 hypotheses and 2 references"),
        (["a", "b", "c"], [["a", "b", "c"]], ValueError, r"or a list of str .*list\(zip\(\*references\)\)"),
        (["a"], [[]], ValueError, r"references\[0\] is blank"),
        (["a", "b"], ["a", " "], ValueError, r"references\[1\] is blank"),
        (["a", None], ["a", "b"], TypeError, r"hypotheses\[1\] is of type NoneType"),
        (["a"], [["b", 5]], TypeError, r"references\[0\] holds an item of type int"),
        (["a"], [b"a"], TypeError, r"references\[0\] is of type bytes"),
        ("a", ["a"], TypeError, "hypotheses is of type str; give a list"),
    ],
)
def test_bad_text_is_refused_in_one_sentence(hypotheses, references, error, message):
    for score in (bleu, chrf, ter, rouge, translation_scores):
        with pytest.raises(error, match=message):
            score(hypotheses, references)


def test_bad_options_are_refused_in_one_sentence():
    with pytest.raises(ValueError, match=r"tokenize='mecab' is not possible; choose one of .*13a"):
        bleu(["a"], ["a"], tokenize="mecab")
    with pytest.raises(ValueError, match=r"variant='rougeX' is not possible; choose rougeL"):
        rouge(["a"], ["a"], "rougeX")
    with pytest.raises(ValueError, match="one reference for each hypothesis"):
        rouge(["a"], [["a", "b"]])
    with pytest.raises(ValueError, match="only the letters a to z"):
        rouge(CHINESE, CHINESE)
