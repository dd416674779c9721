"""An independent solution of a3_data.6 to a3_data.8, written from the handout alone."""

import re
import string

EMAIL_MASK = "|||EMAIL_ADDRESS|||"
PHONE_MASK = "|||PHONE_NUMBER|||"
IP_MASK = "|||IP_ADDRESS|||"
CARD_MASK = "|||PAYMENT_CARD|||"
IBAN_MASK = "|||IBAN|||"
DIGITS = re.compile(r"[0-9]+")

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


LOCAL_CHARACTERS = string.ascii_letters + string.digits + "._%+-"
EMAIL_DOMAIN = re.compile(r"@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9])")
MAX_LOCAL = 64
SEPARATOR = "[ .-]"
COMPUTER_NUMBERS = "|".join(str(2**bits - less) for bits in (31, 32, 33) for less in (0, 1))
PHONE = re.compile(
    rf"""(?<![\w.+-])
    (?:
        (?:\+?1{SEPARATOR}?)?
        (?: [2-9][0-9]{{2}}{SEPARATOR} | \([2-9][0-9]{{2}}\){SEPARATOR}? )
        [0-9]{{3}} {SEPARATOR} [0-9]{{4}}
      | \+1{SEPARATOR}? [2-9][0-9]{{9}}
      | (?:1{SEPARATOR})? (?!{COMPUTER_NUMBERS}) [2-9][0-9]{{9}}
    )
    (?![\w-]|\.[0-9])""",
    re.VERBOSE,
)
BYTE = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
IPV4 = re.compile(rf"{BYTE}(?:\.{BYTE}){{3}}")
IPV4_IN_TEXT = re.compile(rf"(?<![\w.]){IPV4.pattern}(?!\w|\.[0-9])")
IPV6_GROUP = re.compile(r"[0-9A-Fa-f]{1,4}")
ADDRESS_RUN = re.compile(r"[0-9A-Fa-f:.]+")
WRITTEN_CARD = re.compile(r"[0-9]{3,}(?:(?: [0-9]{3,})*|(?:-[0-9]{3,})*)")
MAX_CARD_DIGITS = 19
IBAN_FORM = re.compile(r"[A-Z]{2}[0-9]{2}[0-9A-Z]+")
IBAN_START = re.compile(r"(?<!\w)[A-Z]{2}[0-9]{2}")


def _masked(text, spans, mask):
    """Return the text with a mask for each span, and their number; of spans that overlap, the one
    that comes first in the sequence counts, and they begin in ascending order.
    """
    parts = []
    end_of_last = 0
    for start, end in spans:
        if start >= end_of_last:
            parts += [text[end_of_last:start], mask]
            end_of_last = end
    return "".join([*parts, text[end_of_last:]]), len(parts) // 2


def _word_at(text, place):
    """Return whether a word character is at this place; there is none outside the text."""
    return 0 <= place < len(text) and re.match(r"\w", text[place]) is not None


def _email_spans(text):
    at = text.find("@")
    while at >= 0:
        before = text[max(0, at - MAX_LOCAL - 1) : at]
        local = before[len(before.rstrip(LOCAL_CHARACTERS)) :]
        domain = EMAIL_DOMAIN.match(text, at)
        if domain and 1 <= len(local) <= MAX_LOCAL and local[0] != ".":
            yield at - len(local), domain.end()
        at = text.find("@", at + 1)


def _ipv6_spans(text):
    for run in ADDRESS_RUN.finditer(text):
        start, end = run.span()
        if _word_at(text, end) or (_word_at(text, start - 1) and run[0][0] not in ":."):
            continue
        address = run[0].lstrip(".")
        start = end - len(address)
        address = address.rstrip(".")
        if address.startswith(":") and not address.startswith("::"):
            address, start = address[1:], start + 1
        if address.endswith(":") and not address.endswith("::"):
            address = address[:-1]
        if is_ipv6(address) and names_a_host(address):
            yield start, start + len(address)


def _card_spans(text):
    groups = [group.span() for group in DIGITS.finditer(text)]
    for number, (start, _) in enumerate(groups):
        if _word_at(text, start - 1) or (start and text[start - 1] in ".+"):
            continue
        ends = [
            end
            for separator in " -"
            for end in _chain_ends(text, groups, number, separator)
            if not _word_at(text, end)
            and not re.match(r"\.[0-9]", text[end : end + 2])
            and is_written_card(text[start:end])
        ]
        if ends:
            yield start, max(ends)


def _chain_ends(text, groups, number, separator):
    """Yield where a card may end that begins with this group, while it is not too long."""
    digits = 0
    previous = None
    for start, end in groups[number : number + MAX_CARD_DIGITS]:
        if previous is not None and text[previous:start] != separator:
            return
        digits += end - start
        if digits > MAX_CARD_DIGITS:
            return
        yield end
        previous = end


def _iban_spans(text):
    for head in IBAN_START.finditer(text):
        start = head.start()
        length = IBAN_LENGTHS.get(text[start : start + 2])
        if length is None:
            continue
        compact = text[start : start + length]
        spaced = text[start : start + length + (length - 1) // 4]
        joined = spaced.replace(" ", "")
        in_fours = " ".join(joined[i : i + 4] for i in range(0, length, 4))
        if is_iban(compact):
            end = start + length
        elif in_fours == spaced and is_iban(joined):
            end = start + len(spaced)
        else:
            continue
        if not _word_at(text, end):
            yield start, end


def mask_emails(text: str) -> tuple[str, int]:
    """Return (text with each e-mail address replaced by EMAIL_MASK, number of replacements).

    Like the functions below, it counts replacements only: masks that the text already contained
    do not count.
    """
    return _masked(text, _email_spans(text), EMAIL_MASK)


def mask_phone_numbers(text: str) -> tuple[str, int]:
    """Return (text with each US phone number replaced by PHONE_MASK, replacements)."""
    return PHONE.subn(PHONE_MASK, text)


def is_ipv6(address: str) -> bool:
    """Return whether a string is an IPv6 address as RFC 4291, section 2.2, writes it: eight groups
    of one to four hexadecimal digits, or fewer with one "::" in place of one or more groups of
    zeros. The last two groups may be an IPv4 address. A zone ("%eth0") is not part of the address.
    """
    head, colon, last = address.rpartition(":")
    if IPV4.fullmatch(last):
        address = f"{head}{colon}0:0"
    sides = [side.split(":") if side else [] for side in address.split("::")]
    groups = [group for side in sides for group in side]
    if not all(IPV6_GROUP.fullmatch(group) for group in groups):
        return False
    return len(groups) == 8 if len(sides) == 1 else len(sides) == 2 and len(groups) <= 7


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


def mask_ips(text: str) -> tuple[str, int]:
    """Return (text with each IPv4 and IPv6 address replaced by IP_MASK, number of replacements).

    "[::ffff:192.0.2.1]:80" contains one address. Times (12:30:45) and hardware addresses
    (00:1b:44:11:3a:b7) have too few groups.
    """
    sixes = list(_ipv6_spans(text))
    fours = [match.span() for match in IPV4_IN_TEXT.finditer(text)]
    return _masked(text, sorted(sixes + fours), IP_MASK)


def passes_luhn(digits: str) -> bool:
    """Return whether the last digit is the check digit of those before it (ISO/IEC 7812, annex B):
    from the right, every second digit is doubled, 9 is taken from those above 9, and the sum must
    be a multiple of 10.

    "79927398713": 3 + 2 + 7 + 7 + 9 + 6 + 7 + 4 + 9 + 9 + 7 = 70.
    """
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def is_card_number(digits: str) -> bool:
    """Return whether 13 to 19 digits begin like those of a known issuer and pass `passes_luhn`."""
    return (
        DIGITS.fullmatch(digits) is not None
        and any(
            fewest <= len(digits) <= most and first <= digits[: len(first)] <= last
            for first, last, fewest, most in CARD_ISSUERS
        )
        and passes_luhn(digits)
    )


def is_written_card(written: str) -> bool:
    """Return whether this is a card number in one group of digits, or in groups of three or more,
    all separated by a space or all by a hyphen.
    """
    return WRITTEN_CARD.fullmatch(written) is not None and is_card_number(
        re.sub("[ -]", "", written)
    )


def mask_payment_cards(text: str) -> tuple[str, int]:
    """Return (text with each payment card number replaced by CARD_MASK, replacements)."""
    return _masked(text, _card_spans(text), CARD_MASK)


def is_iban(compact: str) -> bool:
    """Return whether characters without spaces are an IBAN: a known country, its length, and 1 as
    the remainder modulo 97. For this, the first four characters move to the end, and A is 10, B is
    11, to Z, which is 35 (ISO 13616).
    """
    if not IBAN_FORM.fullmatch(compact) or IBAN_LENGTHS.get(compact[:2]) != len(compact):
        return False
    moved = compact[4:] + compact[:4]
    return int("".join(str(int(character, 36)) for character in moved)) % 97 == 1


def mask_ibans(text: str) -> tuple[str, int]:
    """Return (text with each IBAN replaced by IBAN_MASK, number of replacements)."""
    return _masked(text, _iban_spans(text), IBAN_MASK)


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
