"""Lines and marks that web sites add to texts: notices, citation marks, and what is no sentence."""

import re

# C4 removes every line with such words. Here a line must be short and begin like one, as articles on cookies and
# lines that go on a sentence may hold them too.
_LONGEST_NOTICE = 200
_NOTICES_CONTAIN = (
    *("enable javascript", "javascript is disabled", "javascript must be enabled", "requires javascript"),
    *("we use cookies", "site uses cookies", "our use of cookies", "accept all cookies", "all rights reserved"),
    *("verwendet cookies", "nutzt cookies", "alle rechte vorbehalten"),
    *("utilise des cookies", "tous droits réservés", "utiliza cookies", "todos los derechos reservados"),
    *("启用javascript", "启用 javascript", "版权所有", "版權所有", "icp备"),
)
_NOTICES_BEGIN = (
    *("© 1", "© 2", "©19", "©20", "(c) 19", "(c) 20", "copyright ©", "copyright (c)", "copyright 19", "copyright 20"),
    *("share this post", "share this article", "share this page", "share this:", "share on ", "tweet this"),
    *("follow us on ", "find us on ", "like us on ", "subscribe to our ", "sign up for our ", "sign up to our "),
    *("log in to comment", "log in to reply", "you must be logged in to", "powered by wordpress"),
    *("上一篇", "下一篇", "分享到", "关注我们"),
)
_NOTICES = frozenset(
    (
        *("read more", "see more", "show more", "load more", "view more", "learn more", "continue reading"),
        *("skip to content", "skip to main content", "jump to navigation", "back to top", "subscribe", "advertisement"),
        *("terms of use", "terms of service", "terms and conditions", "privacy policy", "cookie policy", "log in"),
        *("sign in", "sign up", "leave a comment", "leave a reply", "post a comment", "accept cookies"),
        *("impressum", "datenschutz", "datenschutzerklärung", "mehr lesen", "mehr erfahren", "weiterlesen"),
        *("lire la suite", "mentions légales", "leer más", "política de privacidad", "politique de confidentialité"),
        *("返回顶部", "返回首页", "查看更多", "阅读全文", "点击查看更多", "隐私政策", "使用条款"),
    )
)
# Reading only what begins like some notice is five times as fast.
_BEGINNINGS = frozenset(notice[:3] for notice in (*_NOTICES_BEGIN, *_NOTICES))
_BEHIND_NOTICES = " \t.…»›→>"
_BETWEEN_NOTICES = re.compile(r"\s*[|·•]\s*")
# Numbers only behind punctuation: "x[1]" is none.
_CITATION = re.compile(
    r"\[(?:citation needed|clarification needed|edit|編輯|编辑|來源請求|来源请求)\]"
    r"|(?<=[.,;:!?。，；：！？])(?:\[\d{1,3}\])+"
)
_SENTENCE_ENDS = tuple(".!?…。！？｡؟۔।॥։።")
_CLOSING = "\"'”’»›)]」』）】*_ \t"


def without_notices(text):
    """Leaves out lines that are notices of web sites: on cookies, copyright, scripts, logging in, reading on."""
    lower = text.lower()
    contained = [part for part in _NOTICES_CONTAIN if part in lower]
    return "\n".join(
        line
        for line in text.split("\n")
        if not (contained or line.lstrip()[:3].lower() in _BEGINNINGS) or not _is_notice(line, contained)
    )


def without_citations(text):
    """Leaves out Wikipedia's marks: "[citation needed]", "[edit]", and "[1]" behind punctuation."""
    return _CITATION.sub("", text) if "[" in text else text


def without_unfinished_lines(text):
    """Leaves out lines that do not end like a sentence, blank ones excepted."""
    return "\n".join(line for line in text.split("\n") if not line or line.rstrip(_CLOSING).endswith(_SENTENCE_ENDS))


def _is_notice(line, contained):
    line = line.strip()
    if not line or len(line) > _LONGEST_NOTICE or line[0].islower():
        return False
    line = line.lower()
    return (
        line.startswith(_NOTICES_BEGIN)
        or any(part in line for part in contained)
        or all(part.rstrip(_BEHIND_NOTICES) in _NOTICES for part in _BETWEEN_NOTICES.split(line))
    )
