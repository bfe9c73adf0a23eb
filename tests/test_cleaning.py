"""Cleaning and deduplication: each rule on its own case and on nothing else, whatever the text holds."""

import itertools
import json
import random
import time
import tracemalloc

import ftfy
import matplotlib.pyplot
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kerasllm.data import clean, cleaning, deduplicate, read_text
from kerasllm.data.deduplication import SHINGLE_LENGTH
from kerasllm.data.words import find_words, phrases

PROSE = (
    "The library stands in the middle of the town, between the river and the old market. Every morning, long before "
    "the doors open, a few people wait on the steps: students with heavy bags, a retired teacher who reads the papers, "
    "and a child whose mother works upstairs. Nobody talks much. When the bell rings they all know where to go, and by "
    "nine o'clock most of the tables near the windows are taken."
)
GERMAN = (
    "Die Bibliothek steht mitten in der Stadt, zwischen dem Fluss und dem alten Markt. Jeden Morgen warten lange vor "
    "der Öffnung ein paar Leute auf den Stufen: Studenten mit schweren Taschen, ein pensionierter Lehrer und ein Kind, "
    "dessen Mutter oben arbeitet. Niemand spricht viel. Wenn es läutet, wissen alle, wohin sie gehen, und um neun Uhr "
    "sind die meisten Tische an den Fenstern besetzt."
)
CHINESE = (
    "图书馆坐落在城市的中心，一边是河流，一边是老市场。每天清晨，离开门还有很久，台阶上就已经有人在等候：背着沉重书包的"
    "学生、来看报纸的退休教师，还有一个孩子，他的母亲在楼上工作。大家都不怎么说话。铃声一响，每个人都知道该往哪里走；到了"
    "九点钟，靠窗的桌子大多已经坐满了。管理员说，这里最安静的时候是下雨的午后。"
)
HINDI = (
    "पुस्तकालय शहर के बीच में नदी और पुराने बाज़ार के बीच स्थित है। हर सुबह दरवाज़े खुलने से बहुत पहले कुछ लोग सीढ़ियों पर "
    "प्रतीक्षा करते हैं। भारी थैले लिए छात्र, अख़बार पढ़ने वाले एक सेवानिवृत्त शिक्षक और एक बच्चा जिसकी माँ ऊपर काम करती है। "
    "कोई ज़्यादा बात नहीं करता। घंटी बजते ही सब जानते हैं कि कहाँ जाना है, और नौ बजे तक खिड़कियों के पास की मेज़ें भर जाती हैं।"
)
# A villanelle (E. A. Robinson, 1894): no form of verse repeats more of its lines.
VILLANELLE = """They are all gone away,
The House is shut and still,
There is nothing more to say.

Through broken walls and gray
The winds blow bleak and shrill:
They are all gone away,

Nor is there one to-day
To speak them good or ill:
There is nothing more to say.

Why is it then we stray
Around the sunken sill?
They are all gone away,

And our poor fancy-play
For them is wasted skill:
There is nothing more to say.

There is ruin and decay
In the House on the Hill:
They are all gone away,
There is nothing more to say."""
SCENE = "\n\n".join(f"SEYTON:\n{line}" for line in PROSE.split(". "))
SHORT = ["Hi.", "嗨。", "No way!", "¿Qué?", "Two dogs run.", "Ein Mann in Rot.", "1 + 1 = 2", "Wait… what?", "请进！"]
PAGE = """<!DOCTYPE html>
<html lang="en"><head><title>Opening hours</title><style>p > a {color: red}</style>
<script>if (a < 1 && b > 2) document.write("<p>never</p>");</script></head>
<body><!-- a comment with <p>markup</p> --><nav><ul><li><a href="/">Home</a></li></ul></nav>
<h1><a href="#top">Opening hours</a></h1>
<p>We open at <b>nine</b>&nbsp;&ndash; on&#32;Sundays
at ten.<br>Fish &amp; chips cost &lt; 5&euro;, says &quot;The Cook&quot;.</p>
<table><tr><td>Monday</td><td>9-17</td></tr><tr><td>Sunday</td><td>10-12</td></tr></table>
<pre>  two
    spaces</pre>
<ul><li><a href="/a">More</a></li><li>Bring your card.</li>
<li><a href="/b">Why the library opens late in winter and early in spring</a></li></ul>
<footer>All rights reserved.</footer></body></html>"""
ALL_RULES = ("repair", "quality", "personal", "strict")


def cleaned(*documents, **options):
    return list(clean(documents, **options))


# Text that is changed


@pytest.mark.parametrize(
    "rule, before, after",
    [
        ("encoding", "The MunichÃ¼beralles cafÃ© â€œSchÃ¶nâ€\x9d", "The Munichüberalles café “Schön”"),
        ("encoding", "voilÃ  le travail", "voilà le travail"),
        ("encoding", "æ¬¢è¿Žæ\x9d¥åˆ°å›¾ä¹¦é¦†", "欢迎来到图书馆"),
        ("encoding", "a smile \ud83d\ude00, half of one \ud83d", "a smile 😀, half of one \ufffd"),
        ("characters", "cafe\u0301 \x1b[1;31mre\x00d\x1b[0m of\ufb01ce co\xadop\u200b", "café red office coop"),
        ("characters", "a" + "\u0301\u0316" * 40 + "b", "á" + "\u0316" * 15 + "\u0301" * 14 + "b"),
        ("html", "Fish &amp;amp; chips &lt; 5&nbsp;&euro;", "Fish & chips < 5\xa0€"),
        ("html", f"a &{'amp;' * 50}lt; b &#{ord('&')};lt; c", "a < b < c"),
        ("html", "one<br>two <i>three</i> <unk>", "one\ntwo three <unk>"),
        ("boilerplate", "Text.\nWe use cookies to improve this site.\nRead more »", "Text."),
        ("boilerplate", "正文。\n版权所有 © 2020 图书馆\nTerms of use | Privacy policy\n© 2024 X", "正文。"),
        ("citations", "It rose.[1][23] It fell [citation needed] here.", "It rose. It fell  here."),
        (
            "white_space",
            "\r\n\r\n a  b\u3000c\xa0d \t\r\n\n\n\n    indented\u2028end \n",
            "a b c d\n\n    indented\nend",
        ),
        ("unfinished_lines", "A sentence.\nMenu\n“Quoted!”\n\n这是一句话。\nमेज़ें भर जाती हैं।", None),
    ],
)
def test_each_rule_changes_its_own_case_and_nothing_else(rule, before, after):
    after = before.replace("Menu\n", "") if after is None else after
    documents = clean([before], rules=rule)
    assert list(documents) == [after]
    assert documents.report.changed == {rule: 1} and documents.report.kept == 1
    others = [name for name in cleaning._CHANGES if name not in (rule, "white_space", "unfinished_lines")]
    assert cleaned(after, rules=others) == [after]


@pytest.mark.parametrize("text", [PROSE, GERMAN, CHINESE, HINDI, VILLANELLE, SCENE, *SHORT])
def test_good_text_stays_as_it_is(text):
    documents = clean([text], rules=("repair", "quality", "personal"))
    assert list(documents) == [text]
    assert not any(documents.report.changed.values())


def test_pages_become_what_a_reader_reads():
    assert cleaned(PAGE) == [
        "Opening hours\n\nWe open at nine – on Sundays at ten.\n"
        'Fish & chips cost < 5€, says "The Cook".\n\nMonday 9-17\nSunday 10-12\n\n'
        "  two\n    spaces\n\nBring your card.\n"
        "Why the library opens late in winter and early in spring"
    ]
    assert cleaned("<p>In a &lt;style&gt; element.</p><p>The rest.</p>") == ["In a <style> element.\n\nThe rest."]
    assert cleaned("<p>kept <nav>that never ends <p>is kept") == ["kept\nthat never ends\n\nis kept"]
    tutorial = "Put it into the <script> tag, and a note into <!-- here.\n\nThat is all."
    for text in (tutorial, "if a <b and c> d, List<int>", "<s> tokens </s>", "x[1] = a[0]", "1 < 2 & 3 > 2; R&D"):
        assert cleaned(text) == [text]


def test_what_leaves_nothing_or_never_settles_is_removed():
    documents = clean(["<script>x</script>", "word " + "<b" * 5 + ">" * 5, "word " + "<b" * 50 + ">" * 50], "repair")
    assert list(documents) == ["word"]
    assert documents.report.removed["html"] == 2 == sum(documents.report.removed.values())


def test_sentences_may_hold_what_notices_hold():
    article = "Since 2018 the law says that a site which uses cookies must ask first, and that a reader may refuse.\n"
    wrapped = "whether we use cookies at all is a question that\nread more\nLog in to the server, and share this view."
    assert cleaned(article + wrapped) == [article + wrapped]


MASKED = {
    "email": "Mail jane.doe+lists@mail.example.co.uk|联系我abc@qq.com或者|<max@müller.de>",
    "card": "Card 4111 1111 1111 1111.|5500-0000-0000-0004|卡号378282246310005，|4111 1111 1111 1111 12/27|"
    "4111111111111111 123",
    "ip": "from 192.168.0.12,|http://203.0.113.7:8080/x|2001:db8::8a2e:370:7334 is|IP:10.1.2.3",
    "phone": "call +49 30 1234567.|Phone: 555-123-4567|(555) 123-4567|+1 (555) 123-4567|01 23 45 67 89|"
    "电话13812345678。|020 7946 0958|Tel.:030/12345678|+44 (0)20 7946 0958",
}
LEFT = (
    "@handle 5@home a@b|pkg@1.2.3|4111 1111 1111 1112|2001 2002 2003 2004|order 1234567890123456|1700000000000"
    "|version 1.2.3.4|v1.2.3.4|Apache/2.4.1.5|Section 4.3.2.1|256.1.1.1|12:34:56|x[::2] std::vector"
    "|2024-01-15|15.01.2024|01.02.2024 15|1914-1918|in 1999 2000 2001|2024-01-15T10:20:30|05/06/2023 07/08/2024"
    "|ISBN 978-0-306-40615-7|ISBN 0-306-40615-2|ISBN 019 853453 1|978-3-16-148410-0"
    "|3.14159265358979|0.123456789|1,234,567,890|10 012 345 678|$1 234 567|ISO 9001:2015|00:11:22:33:44:55"
)


@pytest.mark.parametrize("rule", MASKED)
def test_personal_data_is_masked_on_request(rule):
    for text in MASKED[rule].split("|"):
        assert cleaned(text) == [text]
        (masked,) = cleaned(text, rules="personal")
        assert masked.count(f"[{rule.upper()}]") == masked.count("[") == 1
        digits = sum(map(str.isdigit, masked))
        assert digits <= 4 and "jane" not in masked and "abc" not in masked  # 4: of a port
        assert cleaned(text, rules="personal", skip=rule) == [text]


@pytest.mark.parametrize("text", LEFT.split("|"))
def test_what_only_looks_like_personal_data_stays(text):
    assert cleaned(text, rules="personal") == [text]


# Documents that are removed

WORDS = PROSE.replace(",", "").replace(".", "").split()
BAD = {
    "too_short": ("— ☎ —", {}),
    "too_long": (f"{PROSE} {GERMAN}", {"max_words": 100}),
    "placeholder": (PROSE + "\nLorem ipsum dolor sit amet.", {}),
    "garbled": (PROSE.replace("ll", "\ufffd\ufffd"), {}),
    "few_letters": ("\n".join(f"{n * 7919:016} {word}" for n, word in enumerate(WORDS)), {}),
    "symbols": (" ".join(f"#{word}" if n % 5 == 0 else word for n, word in enumerate(WORDS)), {}),
    "word_length": (" ".join("".join(WORDS[n : n + 4]) for n in range(0, 4 * 60, 1) if n < 64), {}),
    "bullet_lines": ("\n".join(f"• {line}" for line in PROSE.split(". ")), {}),
    "ellipsis_lines": ("\n".join(f"{line} …" for line in PROSE.split(". ")), {}),
    "repeated_lines": (f"{PROSE}\n{GERMAN}\n" + "\n".join([GERMAN, PROSE, CHINESE]), {}),
    "frequent_phrase": (" ".join(f"cheap flights {word}" for word in dict.fromkeys(WORDS)), {}),
    "repeated_phrases": (f"{PROSE} And so {PROSE}", {}),
    "curly_brackets": (PROSE + " {x}", {"rules": ("repair", "quality", "curly_brackets")}),
}


@pytest.mark.parametrize("rule", BAD)
def test_each_rule_removes_its_own_case_and_nothing_else(rule):
    text, options = BAD[rule]
    documents = clean([text, PROSE], **options)
    assert list(documents) == [PROSE]
    assert documents.report.removed[rule] == 1 == documents.report.seen - documents.report.kept
    assert cleaned(text, skip=rule) == [text]


@pytest.mark.parametrize("rule", cleaning.SHARE_RULES)
def test_shares_of_few_words_say_nothing(rule):
    text = " ".join(BAD[rule][0].split()[:40])
    assert cleaned(text) == cleaned(text, skip=rule) == [text]


def test_lengths_count_words_or_characters_of_scripts_without_spaces():
    assert cleaned("one two three", "图书馆 x", min_words=4) == ["图书馆 x"]
    assert cleaned(PROSE, CHINESE, *SHORT, min_words=50) == [PROSE, CHINESE]
    assert cleaned("one two", "一二三", max_words=2) == ["one two"]


def test_words_are_told_apart():
    rng = random.Random(0)
    names = dict.fromkeys("".join(rng.choices("ab1é", k=n)) for n in range(1, 40) for _ in range(100))
    found = find_words(" – ".join(names))
    assert len(names) == len(set(found.hashes.tolist())) > 3000 and found.lengths.tolist() == [*map(len, names)]
    assert find_words("Été, ÉTÉ!").hashes.tolist() == find_words("été").hashes.tolist() * 2
    assert find_words("Das 書店, ภาษา पुस्तकालय").lengths.tolist() == [3, 1, 1, 1, 1, 1, 1, 9]
    assert len(set(phrases(find_words("a b a c a b").hashes, 2).tolist())) == 4


def test_repetition_is_seen_without_spaces_too():
    assert cleaned("欢迎光临本店，" * 30 + CHINESE[:20]) == []
    assert cleaned(CHINESE + "他又说了一遍：" + CHINESE) == []


def test_real_texts_survive(shared_data):
    play = (shared_data / "tinyshakespeare" / "input.txt").read_text()[:400_000]
    passages = [play[begin : begin + 2000] for begin in range(0, len(play), 2000)]
    pairs = (shared_data / "tatoeba_en_zh" / "cmn.txt").read_text(encoding="utf-8").split("\n")[5000:7000]
    english, chinese = zip(*(line.split("\t")[:2] for line in pairs if line), strict=True)
    chinese_pages = ["\n".join(chinese[n : n + 100]) for n in range(0, 2000, 100)]
    for documents in ([play], passages, english, chinese, chinese_pages):
        result = clean(documents)
        assert len(list(result)) == len(documents) and result.report.kept_characters > 0.99 * sum(map(len, documents))
    assert len(list(clean(read_text("python_docs")))) >= 0.98 * len(list(read_text("python_docs")))


# Any text at all

PARTS = [
    *(
        "<p>",
        "</p>",
        "<br>",
        "<a href='x'>",
        "</a>",
        "<script>",
        "</script>",
        "<!--",
        "-->",
        "<nav>",
        "</nav>",
        "<pre>",
    ),
    *("&amp;", "&lt;", "&gt;", "&#38;", "&#x3c;", "amp;", "p", "<", "&", ";", "Ã©", "â€œ", "\ud83d", "\ude00", "\x00"),
    *("\x85", "\r", "\n", "  ", "\u3000", "\x1b[31m", "\x1b", "\u0301", "\u0316", "\u200b", "\xad", "ﬁ", "。", "我们"),
    *("[1]", "[edit]", ".", "lorem ipsum", "4111-1111-1111-1111", "+49 30 1234567", "192.168.0.1", "a@b.com", "@"),
    *("© 2020", "Read more", "{", "...", "#", "12", "-", "|", "word"),
]
ANY_TEXT = st.lists(st.sampled_from(PARTS) | st.text(st.characters(exclude_categories=()), max_size=4), max_size=12)


@given(ANY_TEXT.map("".join), st.sampled_from([ALL_RULES, ("repair", "quality"), "html", ("white_space", "phone")]))
def test_any_text_is_cleaned_once_and_for_all(text, rules):
    first = clean([text], rules)
    once = list(first)
    assert first.report.seen == 1 == first.report.kept + sum(first.report.removed.values())
    again = clean(once, rules)
    assert list(again) == once
    assert not any(again.report.changed.values())
    assert list(deduplicate([text, text])) == [text]


BROKEN = st.builds(
    lambda text, encoding: text.encode("utf-8", "replace").decode(encoding, "replace"),
    st.sampled_from(["déjà vu", "it’s “ok” – yes…", "Привет", "日本語", "😀", "naïve à la", "Ζωή", "€"]),
    st.sampled_from(["latin-1", "cp1252", "cp1251", "cp1250", "mac_roman", "cp437", "cp1253"]),
)


@given(st.lists(BROKEN | st.sampled_from(["Ã ", " ", "\n", "\x93", "?", "日本", "é"]), max_size=6).map("".join))
def test_nothing_that_ftfy_would_repair_is_passed_over(text):
    assert cleaning._without_mojibake(text) == ftfy.fix_text(text, cleaning._ENCODING_ONLY)


@pytest.mark.parametrize(
    "part",
    ["<a ", "<!--", "<a x='", "&amp;", "&#38;lt;", "<aside></nav>", "\u0301\u0316", "a@", "1-", "[1].", "\x1b[1;", "<"],
)
def test_time_is_linear_in_hostile_text(part):
    """Quadratic time, which regular expressions and parsers easily take, would be minutes."""
    text = "<p>" + part * (400_000 // len(part))
    began = time.process_time()
    cleaned(text, rules=ALL_RULES, skip="unfinished_lines")
    list(deduplicate([text]))
    assert time.process_time() - began < 10


# Duplicates


def shingles(words):
    return {tuple(words[n : n + SHINGLE_LENGTH]) for n in range(len(words) - SHINGLE_LENGTH + 1)}


def altered(words, count, rng):
    """The words with `count` of them replaced, far apart, and the Jaccard similarity of both."""
    other = list(words)
    for place in rng.sample(range(0, len(words), SHINGLE_LENGTH), count):
        other[place] = f"new{rng.randrange(10**9)}"
    return other, len(shingles(words) & shingles(other)) / len(shingles(words) | shingles(other))


@pytest.mark.parametrize("script", ["latin", "chinese"])
def test_near_duplicates_are_found_by_likeness(script):
    rng = random.Random(0)
    space = " " if script == "latin" else ""
    names = [f"word{n}" for n in range(3000)] if script == "latin" else [chr(0x4E00 + n) for n in range(3000)]
    found = {0.9: [], 0.6: []}
    for replaced, likeness in ((3, 0.9), (15, 0.6)):
        for _ in range(40):
            words = rng.choices(names, k=300)
            other, exact = altered(words, replaced, rng)
            assert abs(exact - likeness) < 0.03
            found[likeness].append(len(list(deduplicate([space.join(words), space.join(other)]))) == 1)
    assert sum(found[0.9]) >= 38 and sum(found[0.6]) == 0


def test_the_first_of_each_is_kept_in_order():
    near = PROSE.replace("few", "lot of")
    documents = [PROSE, "B", CHINESE, "b ", GERMAN, near, PROSE.upper().replace(" ", "\n"), CHINESE[1:], "", "C", " "]
    result = deduplicate(documents)
    assert list(result) == [PROSE, "B", CHINESE, GERMAN, "", "C"]
    assert result.report.removed == {"exact_duplicate": 3, "near_duplicate": 2}
    assert list(deduplicate(documents, near=False)) == [PROSE, "B", CHINESE, GERMAN, near, CHINESE[1:], "", "C"]


def test_distinct_texts_are_kept_however_many():
    rng = random.Random(0)
    names = [f"w{n}" for n in range(500)]
    documents = [" ".join(rng.choices(names, k=30)) for _ in range(4500)]  # more than one block, and tables that grow
    result = deduplicate(documents + [f"{document}!" for document in documents[::-1]], num_perm=32)
    assert list(result) == documents
    assert result.report.removed == {"exact_duplicate": 0, "near_duplicate": 4500}
    beginnings, end = (" ".join(rng.choices(names, k=9000)) for _ in range(2)), " ".join(rng.choices(names, k=300))
    assert len(list(deduplicate(f"{begin} {end}" for begin in beginnings))) == 2
    sentences = [f"A man in a {color} shirt." for color in ("red", "blue", "green")]
    assert list(deduplicate(sentences)) == sentences


def test_no_text_is_kept():
    documents = deduplicate(" ".join(str(n * m) for m in range(20_000)) for n in itertools.count(1))
    stream = iter(documents)
    next(stream)
    tracemalloc.start()
    assert sum(map(len, itertools.islice(stream, 20))) > 2_000_000
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 600_000 and peak < 12_000_000


# Both


@pytest.mark.parametrize("function", [clean, deduplicate])
def test_documents_stream_and_are_read_anew(function):
    endless = (f"Document number {n} of very many." for n in itertools.count())
    assert len(list(itertools.islice(function(endless), 3))) == 3
    source = ["Once upon a time.", "There was a king."]
    documents = function(source)
    assert list(documents) == list(documents) == source
    source.append("He had a daughter.")
    assert len(list(documents)) == documents.report.seen == 3
    once = function(iter(source))
    assert len(list(once)) == 3
    with pytest.raises(ValueError, match="came from an iterator, which can be read only once"):
        iter(once)
    begun = function(iter(source))
    next(iter(begun))
    with pytest.raises(ValueError, match="came from an iterator"):
        list(begun)  # would lack the first
    chained = deduplicate(clean(source))
    assert list(chained) == list(chained) == source


def test_reports_add_up_and_can_be_read_and_drawn():
    pages = clean([PAGE, PROSE, BAD["symbols"][0], "!", "cafÃ©"])
    texts = list(pages)
    report = pages.report
    assert (report.seen, report.kept) == (5, len(texts)) == (5, 3)
    assert report.kept_characters == sum(map(len, texts)) and report.removed["symbols"] == 1
    assert report.changed["html"] == report.changed["encoding"] == 1
    assert json.loads(json.dumps(report.to_dict())) == report.to_dict()
    assert list(report.to_dict()) == ["seen", "kept", "seen_characters", "kept_characters", "removed", "changed"]
    lines = str(report).splitlines()
    assert len({*map(len, lines[: 1 + len(report.removed)])}) == 1
    assert [line.split()[0] for line in lines[1 : 1 + len(report.removed)]] == list(report.removed)
    assert any(line.split() == ["documents", "5", "3", "60.0%"] for line in lines)
    before = matplotlib.pyplot.get_fignums()
    figure = report.plot()
    figure.canvas.draw()
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()][:2] == ["encoding", "characters"]
    assert sum(bar.get_width() for bar in axes.patches) == 2 + sum(report.changed.values())
    assert matplotlib.pyplot.get_fignums() == before


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: clean("text"), TypeError, r"got one str: pass \[text\]"),
        (lambda: deduplicate(7), TypeError, "iterable of str, such as a list, got int"),
        (lambda: list(clean([PROSE, b"bytes"])), TypeError, "Document 1 is bytes, not str: b'bytes'"),
        (lambda: clean([], rules="htlm"), ValueError, "rules names 'htlm', which is no rule. Did you mean 'html'"),
        (
            lambda: clean([], skip=["xyz"]),
            ValueError,
            "skip names 'xyz'.*groups are repair, .*rules are encoding",
        ),
        (lambda: clean([], min_words=9, max_words=5), ValueError, "max_words=5 is below min_words=9"),
        (lambda: clean([], rules="repair", min_words=9), ValueError, "add them to the rules"),
        (lambda: deduplicate([], threshold=0), ValueError, "above 0 and at most 1; got 0"),
        (lambda: deduplicate([], num_perm=2), ValueError, "num_perm must be at least 16"),
    ],
)
def test_wrong_arguments_get_one_clear_sentence(call, error, message):
    with pytest.raises(error, match=message):
        call()
