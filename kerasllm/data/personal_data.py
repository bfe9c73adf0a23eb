"""Personal data, masked or found: e-mail addresses, payment cards, IP and phone numbers."""

import ipaddress
import re

# What stands before and after keeps the middle of longer numbers from matching. All repetitions have a limit, so that
# the time is linear in the text. \w is ASCII: in Chinese, numbers follow words without a space.
_EMAIL = re.compile(
    r"(?<![\w.%+-])[A-Za-z0-9À-ɏ._%+-]{1,64}@(?:[A-Za-z0-9À-ɏ-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9@])", re.ASCII
)
_CARD = re.compile(r"(?<![\w+-])(?<!\d[.,])(?:2[2-7]|3[0-8]|4\d|5[0-8]|6\d)(?:[ -]?\d){12,17}(?![\w-])", re.ASCII)
_OCTET = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
_IP = re.compile(
    rf"(?<![\w-])(?<!\w/)(?<!\d[.:])(?<!::)(?:{_OCTET}(?:\.{_OCTET}){{3}}"
    r"|[0-9A-Fa-f]{3,4}:[0-9A-Fa-f:]{1,34}(?:[0-9A-Fa-f]|::))(?![\w-]|\.\d)",
    re.ASCII,
)
_PHONE = re.compile(
    r"(?<![\w+/-])(?<!\d[.,:])(?:"
    r"\+[1-9](?:[ ./-]{0,2}\(?\d\)?){7,14}"  # international
    r"|\(0?\d{2,5}\)[ /-]{0,2}\d{2,5}(?:[ -]?\d{2,5}){1,3}"  # area code in brackets
    r"|(?<!\d )0[1-9]\d{0,3}[ /.-]{1,3}\d{2,8}(?:[ .-]\d{2,5}){0,4}"  # area code with a zero before it
    r"|\d{3}[ .-]\d{3}[ .-]\d{4}"  # North America
    r"|1[3-9]\d[ -]?\d{4}[ -]?\d{4}"  # mobile phones in China
    r")(?![\w-]|[.,:/]\d)",
    re.ASCII,
)
_NAMED = re.compile(
    r"(?:version|release|build|section|chapter|clause|isbn|issn|ver|v|§)(?:-1[03])?[.:]?\s*$", re.IGNORECASE
)
_DATE = re.compile(r"(?<!\d)(?:\d{1,2}([./-])\d{1,2}\1(?:19|20)\d\d|(?:19|20)\d\d([./-])\d\d?\2\d\d?)(?!\d)")


def mask_email(text, found=None):
    """Puts [EMAIL] in the place of e-mail addresses, which `found`, a list, then has too."""
    if "@" not in text:
        return text
    if found is not None:
        found += _EMAIL.findall(text)
    return _EMAIL.sub("[EMAIL]", text)


def mask_card(text, found=None):
    """Puts [CARD] in the place of payment cards: 14 to 19 digits, begun as theirs and ended by Luhn's digit."""
    return _masked(_CARD, "[CARD]", _is_card, text, found, _beginnings)


def mask_ip(text, found=None):
    """Puts [IP] in the place of IP numbers, versions 4 and 6."""
    return _masked(_IP, "[IP]", _is_ip, text, found)


def mask_phone(text, found=None):
    """Puts [PHONE] in the place of phone numbers: 9 to 15 digits, with a +, a leading zero, brackets or in groups."""
    return _masked(_PHONE, "[PHONE]", _is_phone, text, found)


MASKS = {"email": mask_email, "card": mask_card, "ip": mask_ip, "phone": mask_phone}  # in the order in which they apply


def find_personal(text):
    """The personal data of a text: list of pairs (kind, as it stands there), the kinds those of `MASKS`."""
    found = []
    for kind, mask in MASKS.items():
        of_kind = []
        text = mask(text, of_kind)
        found += [(kind, one) for one in of_kind]
    return found


def _masked(pattern, mask, is_personal, text, found=None, parts=lambda found: (found,)):
    """Masks what matches, or its first part, that is personal and not said to be something else: "version 1.2.3.4"."""

    def replacement(match):
        before = text[max(0, match.start() - 12) : match.start()]
        part = next(filter(is_personal, parts(match[0])), None)
        if part is None or _NAMED.search(before):
            return match[0]
        if found is not None:
            found.append(part)
        return mask + match[0][len(part) :]

    return pattern.sub(replacement, text)


def _beginnings(found):
    """A number, and what is left of it without its last groups: a card's number may stand before a date or a code."""
    yield found
    for place in range(len(found) - 1, 0, -1):
        if not found[place].isdigit():
            yield found[:place]


def _is_card(number):
    digits = [int(digit) for digit in number if digit.isdigit()]
    total = sum(digits[-1::-2]) + sum(sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return len(digits) >= 14 and total % 10 == 0


def _is_ip(number):
    try:
        return bool(ipaddress.ip_address(number))
    except ValueError:
        return False


def _is_phone(number):
    return 9 <= sum(map(str.isdigit, number)) <= 15 and not _DATE.search(number)
