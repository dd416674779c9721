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

Only what is replaced is counted. Masks that the text already contained stay as they are.

What this leaves out: names, postal addresses, phone numbers of other countries, IBANs in lower
case, and disguised addresses ("me at home").
"""

# By the author of these checks, from the handout, with another structure than the reference's.

import ipaddress
import re

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


ASCII = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
LOCAL = set(ASCII + "0123456789._%+-")
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
CONSTANTS = [str(2**power - less) for power in (31, 32, 33) for less in (0, 1)]
PHONE_FORMS = [
    re.compile(r"(\+?1[ .-]?)?[2-9][0-9]{2}[ .-][0-9]{3}[ .-][0-9]{4}"),
    re.compile(r"(\+?1[ .-]?)?\([2-9][0-9]{2}\)[ .-]?[0-9]{3}[ .-][0-9]{4}"),
    re.compile(r"\+1[ .-]?[2-9][0-9]{9}"),
    re.compile(r"(1[ .-])?[2-9][0-9]{9}"),
]


def _is_in(text: str, place: int, others: str) -> bool:
    """Whether a word character, or one of others, is at this place."""
    if not 0 <= place < len(text):
        return False
    return text[place].isalnum() or text[place] == "_" or text[place] in others


def _end_of_domain(text: str, start: int) -> int:
    """Where the domain from here ends, 0 if this is none."""
    found, label = 0, start
    for _ in range(9):
        end = label
        while end < len(text) and (text[end] in ASCII or text[end] in "0123456789-"):
            end += 1
        if label > start:
            last = label
            while last < len(text) and text[last] in ASCII:
                last += 1
            stops = last == len(text) or text[last] not in "0123456789"
            if 2 <= last - label <= 24 and stops:
                found = last
        if not 1 <= end - label <= 63 or text[end : end + 1] != ".":
            break
        label = end + 1
    return found


def mask_emails(text: str) -> tuple[str, int]:
    """Return (text with each e-mail address replaced by EMAIL_MASK, number of replacements).

    Like the functions below, it counts replacements only: masks that the text already contained
    do not count.
    """
    pieces, done, count = [], 0, 0
    at = text.find("@")
    while at >= 0:
        start = at
        while start > 0 and text[start - 1] in LOCAL:
            start -= 1
        end = _end_of_domain(text, at + 1)
        fits = 1 <= at - start <= 64 and text[start] != "." and end
        if fits and start >= done:
            pieces += [text[done:start], EMAIL_MASK]
            done, count = end, count + 1
            at = text.find("@", end)
        else:
            at = text.find("@", at + 1)
    return "".join(pieces) + text[done:], count


def mask_phone_numbers(text: str) -> tuple[str, int]:
    """Return (text with each US phone number replaced by PHONE_MASK, replacements)."""

    def forms(start):
        for pattern in PHONE_FORMS:
            found = pattern.match(text, start)
            if found:
                yield found.end()

    pieces, done, count, place = [], 0, 0, 0
    while place < len(text):
        ends = []
        if text[place] in "+(123456789" and not _is_in(text, place - 1, ".+-"):
            for end in forms(place):
                digits = text[place:end]
                if digits[-10:] in CONSTANTS and not digits.startswith("+"):
                    continue
                behind = text[end : end + 2]
                if _is_in(text, end, "-") or (behind[:1] == "." and behind[1:].isdigit()):
                    continue
                ends.append(end)
        if ends:
            pieces += [text[done:place], PHONE_MASK]
            place = done = max(ends)
            count += 1
        else:
            place += 1
    return "".join(pieces) + text[done:], count


def is_ipv6(address: str) -> bool:
    """Return whether a string is an IPv6 address as RFC 4291, section 2.2, writes it: eight groups
    of one to four hexadecimal digits, or fewer with one "::" in place of one or more groups of
    zeros. The last two groups may be an IPv4 address. A zone ("%eth0") is not part of the address.
    """
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        return False
    return "%" not in address


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
    pieces, done, count = [], 0, 0
    for run in re.finditer(r"[0-9A-Fa-f:.]+", text):
        start, end = run.span()
        if _is_in(text, end, "") or (text[start] not in ":." and _is_in(text, start - 1, "")):
            continue
        address = run[0].lstrip(".")
        start = end - len(address)
        address = address.rstrip(".")
        if address.startswith(":") and not address.startswith("::"):
            address, start = address[1:], start + 1
        if address.endswith(":") and not address.endswith("::"):
            address = address[:-1]
        if is_ipv6(address) and names_a_host(address):
            pieces += [text[done:start], IP_MASK]
            done, count = start + len(address), count + 1
    text = "".join(pieces) + text[done:]
    pieces, done = [], 0
    for run in re.finditer(r"(?<![\w.])[0-9]+(?:\.[0-9]+)*", text):
        parts = run[0].split(".")
        right = [part in map(str, range(256)) for part in parts]
        if len(parts) == 4 and all(right) and not _is_in(text, run.end(), ""):
            pieces += [text[done : run.start()], IP_MASK]
            done, count = run.end(), count + 1
    return "".join(pieces) + text[done:], count


def passes_luhn(digits: str) -> bool:
    """Return whether the last digit is the check digit of those before it (ISO/IEC 7812, annex B):
    from the right, every second digit is doubled, 9 is taken from those above 9, and the sum must
    be a multiple of 10.

    "79927398713": 3 + 2 + 7 + 7 + 9 + 6 + 7 + 4 + 9 + 9 + 7 = 70.
    """
    digits = digits[::-1]
    plain = sum(int(digit) for digit in digits[::2])
    return (plain + sum(sum(divmod(2 * int(digit), 10)) for digit in digits[1::2])) % 10 == 0


def is_card_number(digits: str) -> bool:
    """Return whether 13 to 19 digits begin like those of a known issuer and pass `passes_luhn`."""
    if not digits or set(digits) - set("0123456789") or not passes_luhn(digits):
        return False
    for first, last, fewest, most in CARD_ISSUERS:
        prefix = digits[: len(first)]
        if fewest <= len(digits) <= most and int(first) <= int(prefix) <= int(last):
            return True
    return False


def is_written_card(written: str) -> bool:
    """Return whether this is a card number in one group of digits, or in groups of three or more,
    all separated by a space or all by a hyphen.
    """
    for separator in " -":
        groups = written.split(separator)
        long_enough = len(groups) == 1 or all(len(group) >= 3 for group in groups)
        if long_enough and is_card_number("".join(groups)):
            return True
    return False


def mask_payment_cards(text: str) -> tuple[str, int]:
    """Return (text with each payment card number replaced by CARD_MASK, replacements)."""
    groups = [found.span() for found in re.finditer("[0-9]+", text)]
    pieces, done, count = [], 0, 0
    for number, (start, _) in enumerate(groups):
        if start < done or _is_in(text, start - 1, ".+"):
            continue
        for _, end in reversed(groups[number : number + 7]):
            behind = text[end : end + 2]
            if _is_in(text, end, "") or (behind[:1] == "." and behind[1:].isdigit()):
                continue
            if is_written_card(text[start:end]):
                pieces += [text[done:start], CARD_MASK]
                done, count = end, count + 1
                break
    return "".join(pieces) + text[done:], count


def is_iban(compact: str) -> bool:
    """Return whether characters without spaces are an IBAN: a known country, its length, and 1 as
    the remainder modulo 97. For this, the first four characters move to the end, and A is 10, B is
    11, to Z, which is 35 (ISO 13616).
    """
    if len(compact) < 5 or IBAN_LENGTHS.get(compact[:2]) != len(compact):
        return False
    if set(compact) - set(ALPHABET) or set(compact[2:4]) - set(ALPHABET[:10]):
        return False
    remainder = 0
    for character in compact[4:] + compact[:4]:
        value = ALPHABET.index(character)
        remainder = (remainder * (100 if value > 9 else 10) + value) % 97
    return remainder == 1


def mask_ibans(text: str) -> tuple[str, int]:
    """Return (text with each IBAN replaced by IBAN_MASK, number of replacements)."""
    pieces, done, count, place = [], 0, 0, 0
    while place < len(text):
        length = IBAN_LENGTHS.get(text[place : place + 2])
        found = 0
        if length and not _is_in(text, place - 1, ""):
            written = text[place : place + length]
            if is_iban(written):
                found = length
            written = text[place : place + length + (length - 1) // 4]
            blanks = [i for i, character in enumerate(written) if character == " "]
            if is_iban(written.replace(" ", "")) and blanks == list(range(4, len(written), 5)):
                found = len(written)
            if _is_in(text, place + found, ""):
                found = 0
        if found:
            pieces += [text[done:place], IBAN_MASK]
            place = done = place + found
            count += 1
        else:
            place += 1
    return "".join(pieces) + text[done:], count


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
