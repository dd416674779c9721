"""Masks for e-mail addresses, US phone numbers, IP addresses, payment cards and IBANs, which a
model should not be able to repeat.

The first three masks are those of Stanford's CS336, so that texts can be compared. A leak costs
more than a number that is masked for nothing, so whatever has the form of such data is masked:

- Four dotted numbers up to 255 are an IPv4 address, also a version such as 1.2.3.4, and 127.0.0.1.
  A number of five parts, or with a part above 255, is not an address and stays.
- Ten digits, the first from 2 to 9, are a phone number, also without separators (2831823829).
  Constants and identifiers have this form, too: in 500 pages of documentation, all six such numbers
  were constants. Only 2**31, 2**32 and 2**33 and the numbers one below them (2147483647), which are
  common in texts on computers, stay, unless they have a country code or separators.
- IPv6 (RFC 4291), also compressed or with an embedded IPv4 address. Slices, scopes and hardware
  addresses share its form, so some addresses stay: see `names_a_host`.
- Cards (13 to 19 digits; ISO/IEC 7812) and IBANs (ISO 13616) have check digits. They are masked
  only if these are right, and the issuer or the country is known.

A digit is 0 to 9: digits of other scripts are word characters, but no part of such data. Only what
is replaced is counted. Masks that the text already contained stay as they are.

What this leaves out: names, postal addresses, phone numbers of other countries, IBANs in lower
case, and disguised addresses ("me at home"). Letters of an e-mail address are those of ASCII, as in
CS336: josé@firma.de and me@bücher.de stay (the ASCII form of such a domain, xn--bcher-kva.de, does
not), and of müller@firma.de only ller@firma.de is masked. The extension of a phone number stays
("x12" of 283-182-3829 x12), and the whole number if a letter follows at once (283-182-3829x12).
"""

import re
from collections.abc import Iterable, Iterator

EMAIL_MASK = "|||EMAIL_ADDRESS|||"
PHONE_MASK = "|||PHONE_NUMBER|||"
IP_MASK = "|||IP_ADDRESS|||"
CARD_MASK = "|||PAYMENT_CARD|||"
IBAN_MASK = "|||IBAN|||"

# ASCII only, and every repeat is bounded (64 and 63 characters are the limits of RFC 5321 and RFC
# 1035), so that a long run of letters cannot take quadratic time
EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9_%+-][A-Za-z0-9._%+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9])"
)
# optional country code, area code from 2 to 9. Each pattern below looks at one character before it
# looks behind: the search is then several times as fast
PHONE = re.compile(
    r"(?=[(+1-9])(?<![\w.+-])(?:"
    r"(?:\+?1[ .-]?)?(?:\([2-9][0-9]{2}\)[ .-]?|[2-9][0-9]{2}[ .-])[0-9]{3}[ .-][0-9]{4}"
    r"(?![\w-]|\.[0-9])"
    r"|\+1[ .-]?[2-9][0-9]{9}(?![\w-]|\.[0-9])"
    r"|(?:1[ .-])?(?!214748364[78]|429496729[56]|858993459[12])"  # 2**31, 2**32, 2**33
    r"[2-9][0-9]{9}(?![\w-]|\.[0-9]))"
)
OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
IPV4 = re.compile(rf"(?=[0-9])(?<![\w.])(?:{OCTET}\.){{3}}{OCTET}(?!\w|\.[0-9])")
TWO_COLONS = re.compile(r":[0-9A-Fa-f]{0,4}:")
# a whole run of hexadecimal digits, colons and dots with two colons near its beginning
IPV6_RUN = re.compile(
    r"(?<![0-9A-Fa-f:.])(?=\.*+[0-9A-Fa-f]{0,4}:[0-9A-Fa-f]{0,4}:)[0-9A-Fa-f:.]++(?!\w)"
)
IPV6_GROUP = re.compile(r"[0-9A-Fa-f]{1,4}")
# a run of at least 13 digits, with at most one space or hyphen between two
CARD_RUN = re.compile(r"[0-9](?<![0-9]{2})(?<![0-9][ -][0-9])(?:[ -]?[0-9]){12,}+")
DIGITS = re.compile(r"[0-9]+")
CARD_NEIGHBOR = re.compile(r"[\w.+]")  # before a card number: part of a word or of a fraction
CARD_END = re.compile(r"\w|\.[0-9]")  # after it
IBAN_START = re.compile(r"(?=[A-Z])(?<!\w)[A-Z]{2}[0-9]{2}")
IBAN_CHARACTERS = re.compile(r"[A-Z]{2}[0-9]{2}[A-Z0-9]+")
WORD_CHARACTER = re.compile(r"\w")

CARD_ISSUERS = (  # first prefix, last prefix, fewest digits, most digits
    ("4", "4", 13, 19),  # Visa
    ("51", "55", 16, 16),  # Mastercard
    ("2221", "2720", 16, 16),  # Mastercard
    ("34", "34", 15, 15),  # American Express
    ("37", "37", 15, 15),  # American Express
    ("6011", "6011", 16, 19),  # Discover
    ("644", "659", 16, 19),  # Discover
    ("300", "305", 14, 19),  # Diners Club
    ("3095", "3095", 14, 19),  # Diners Club
    ("36", "36", 14, 19),  # Diners Club
    ("38", "39", 14, 19),  # Diners Club
    ("3528", "3589", 16, 19),  # JCB
    ("62", "62", 16, 19),  # UnionPay
    ("50", "50", 13, 19),  # Maestro
    ("56", "58", 13, 19),  # Maestro
    ("63", "63", 13, 19),  # Maestro
    ("67", "67", 13, 19),  # Maestro
    ("2200", "2204", 16, 19),  # Mir
)
# country and number of characters, from SWIFT's IBAN registry
IBAN_REGISTRY = """
AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28
EE20 EG29 ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26
IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28
NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25
SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30"""
IBAN_LENGTHS = {entry[:2]: int(entry[2:]) for entry in IBAN_REGISTRY.split()}


def _mask_spans(text: str, spans: Iterable[tuple[int, int]], mask: str) -> tuple[str, int]:
    """Return (the text with each span replaced, number of spans); spans are ascending, apart."""
    pieces = []
    end_of_last = 0
    for start, end in spans:
        pieces += [text[end_of_last:start], mask]
        end_of_last = end
    return "".join([*pieces, text[end_of_last:]]), len(pieces) // 2


def mask_emails(text: str) -> tuple[str, int]:
    """Return (text with each e-mail address replaced by EMAIL_MASK, number of replacements).

    Like the functions below, it counts replacements only: masks that the text already contained
    do not count.
    """
    return EMAIL.subn(EMAIL_MASK, text)


def mask_phone_numbers(text: str) -> tuple[str, int]:
    """Return (text with each US phone number replaced by PHONE_MASK, replacements)."""
    return PHONE.subn(PHONE_MASK, text)


def is_ipv6(address: str) -> bool:
    """Return whether a string is an IPv6 address as RFC 4291, section 2.2, writes it: eight groups
    of one to four hexadecimal digits, or fewer with one "::" in place of one or more groups of
    zeros. The last two groups may be an IPv4 address. A zone ("%eth0") is not part of the address.
    """
    before, gap, after = address.partition("::")
    groups = before.split(":") if before else []
    groups += after.split(":") if after else []
    if groups and not address.endswith("::") and IPV4.fullmatch(groups[-1]):
        groups[-1:] = ["0", "0"]
    if not all(map(IPV6_GROUP.fullmatch, groups)):
        return False
    return len(groups) <= 7 if gap else len(groups) == 8


def names_a_host(address: str) -> bool:
    """Return whether a valid IPv6 address is meant as one.

    Eight groups are, except eight of two characters: 00:1b:44:ff:fe:11:3a:b7 is a hardware address
    (EUI-64). So is an embedded IPv4 address. With "::", a digit from 0 to 9 is needed, because
    "add::bad" may be a scope in C++; and "::1" and "10::2" are slices in Python, so fewer than
    three groups need four characters in the first ("fe80::1", "2001::").
    """
    if "." in address:
        return True
    groups = [group for group in address.split(":") if group]
    if "::" not in address:
        return [len(group) for group in groups] != [2] * 8
    long_enough = len(groups) >= 3 or (not address.startswith("::") and len(groups[0]) == 4)
    return long_enough and DIGITS.search(address) is not None


def _ipv6_spans(text: str) -> Iterator[tuple[int, int]]:
    """Yield start and end of each IPv6 address. Dots around it and a colon before or after it
    ("address:2001:db8::1:") are punctuation.
    """
    for run in IPV6_RUN.finditer(text) if TWO_COLONS.search(text) else ():
        start, end = run.span()
        if text[start] not in ":." and WORD_CHARACTER.match(text, max(start - 1, 0), start):
            continue  # the end of a word: std::vector
        while start < end and text[start] == ".":
            start += 1
        while start < end and text[end - 1] == ".":
            end -= 1
        start += text[start] == ":" and not text.startswith("::", start)
        end -= text[end - 1] == ":" and not text.endswith("::", start, end)
        address = text[start:end]
        if is_ipv6(address) and names_a_host(address):
            yield start, end


def mask_ips(text: str) -> tuple[str, int]:
    """Return (text with each IPv4 and IPv6 address replaced by IP_MASK, number of replacements).

    "[::ffff:192.0.2.1]:80" contains one address. Times (12:30:45) and hardware addresses
    (00:1b:44:11:3a:b7) have too few groups.
    """
    text, ipv6 = _mask_spans(text, _ipv6_spans(text), IP_MASK)
    text, ipv4 = IPV4.subn(IP_MASK, text)
    return text, ipv6 + ipv4


def passes_luhn(digits: str) -> bool:
    """Return whether the last digit is the check digit of those before it (ISO/IEC 7812, annex B):
    from the right, every second digit is doubled, 9 is taken from those above 9, and the sum must
    be a multiple of 10. `digits` has one digit or more, 0 to 9.

    "79927398713": 3 + 2 + 7 + 7 + 9 + 6 + 7 + 4 + 9 + 9 + 7 = 70.
    """
    total = 0
    for place, digit in enumerate(map(int, reversed(digits))):
        doubled = digit * 2 if place % 2 else digit
        total += doubled - 9 if doubled > 9 else doubled
    return total % 10 == 0


def is_card_number(digits: str) -> bool:
    """Return whether 13 to 19 digits begin like those of a known issuer and pass `passes_luhn`."""
    known = any(
        fewest <= len(digits) <= most and first <= digits[: len(first)] <= last
        for first, last, fewest, most in CARD_ISSUERS
    )
    return known and DIGITS.fullmatch(digits) is not None and passes_luhn(digits)


def is_written_card(written: str) -> bool:
    """Return whether this is a card number in one group of digits, or in groups of three digits or
    more, all separated by a space or all by a hyphen.
    """
    parts = written.split("-" if "-" in written else " ")
    return (len(parts) == 1 or min(map(len, parts)) >= 3) and is_card_number("".join(parts))


def _card_spans(text: str) -> Iterator[tuple[int, int]]:
    """Yield start and end of each card number; of several from the same place, the longest."""
    for run in CARD_RUN.finditer(text):
        groups = [group.span() for group in DIGITS.finditer(text, *run.span())]
        end_of_last = 0
        for first, (start, _) in enumerate(groups):
            if start < end_of_last or (start and CARD_NEIGHBOR.match(text, start - 1)):
                continue
            for _, end in reversed(groups[first : first + 6]):  # six groups of three: 18 digits
                fits = end - start <= 24 and not CARD_END.match(text, end)
                if fits and is_written_card(text[start:end]):
                    yield start, end
                    end_of_last = end
                    break


def mask_payment_cards(text: str) -> tuple[str, int]:
    """Return (text with each payment card number replaced by CARD_MASK, replacements).

    The cost grows with the text, not with its square: a card has at most six groups.
    """
    return _mask_spans(text, _card_spans(text), CARD_MASK)


def is_iban(compact: str) -> bool:
    """Return whether characters without spaces are an IBAN: a known country, its length, and 1 as
    the remainder modulo 97. For this, the first four characters move to the end, and A is 10, B is
    11, to Z, which is 35 (ISO 13616).
    """
    if len(compact) != IBAN_LENGTHS.get(compact[:2]) or not IBAN_CHARACTERS.fullmatch(compact):
        return False
    return int("".join(str(int(c, 36)) for c in compact[4:] + compact[:4])) % 97 == 1


def _iban_spans(text: str) -> Iterator[tuple[int, int]]:
    """Yield start and end of each IBAN, without spaces or with one after every four characters."""
    end_of_last = 0
    for begin in IBAN_START.finditer(text):
        start = begin.start()
        length = IBAN_LENGTHS.get(text[start : start + 2], 0)
        for width in (length, length + (length - 1) // 4):  # without and with spaces
            end = start + width
            compact = text[start:end].replace(" ", "")
            fours = " ".join(compact[i : i + 4] for i in range(0, len(compact), 4))
            regular = text[start:end] in (compact, fours)
            apart = start >= end_of_last and not WORD_CHARACTER.match(text, end)
            if regular and apart and is_iban(compact):
                yield start, end
                end_of_last = end
                break


def mask_ibans(text: str) -> tuple[str, int]:
    """Return (text with each IBAN replaced by IBAN_MASK, number of replacements)."""
    return _mask_spans(text, _iban_spans(text), IBAN_MASK)


def mask_personal_data(text: str) -> tuple[str, dict[str, int]]:
    """Return (text with all kinds masked, replacements by kind).

    E-mail addresses come first, because one may begin with a phone number; IBANs come before cards,
    because one may contain a card number.
    """
    text, emails = mask_emails(text)
    text, ibans = mask_ibans(text)
    text, cards = mask_payment_cards(text)
    text, ips = mask_ips(text)
    text, phones = mask_phone_numbers(text)
    return text, {
        "emails": emails,
        "phone_numbers": phones,
        "ip_addresses": ips,
        "payment_cards": cards,
        "ibans": ibans,
    }
