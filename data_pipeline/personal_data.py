"""Masks for e-mail addresses, US phone numbers and IPv4 addresses, which a model should not be able
to repeat.

The masks are those of Stanford's CS336, so that texts can be compared. Four dotted numbers up to
255 count as an IP address, so a version such as 1.2.3.4 is masked as well (a leak costs more than a
version), as are 127.0.0.1 and other addresses that identify no person. A number of five parts, or
with a part above 255, is not an address and stays.

What this leaves out: names, postal addresses, phone numbers of other countries, IPv6, and disguised
addresses ("me at home").
"""

import re

EMAIL_MASK = "|||EMAIL_ADDRESS|||"
PHONE_MASK = "|||PHONE_NUMBER|||"
IP_MASK = "|||IP_ADDRESS|||"

# ASCII only, and every repeat is bounded (64 and 63 characters are the limits of RFC 5321 and RFC
# 1035), so that a
# long run of letters cannot take quadratic time
EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9_%+-][A-Za-z0-9._%+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9])"
)
# optional country code, area code from 2 to 9. Ten digits without a separator stay unless a country
# code marks them:
# 2147483647, the largest 32-bit integer, has the form of a number in Dallas
PHONE = re.compile(
    r"(?<![\w.+-])(?:\+?1[ .-]?)?(?:\([2-9]\d{2}\)[ .-]?|[2-9]\d{2}[ .-])"
    r"\d{3}[ .-]\d{4}(?![\w-]|\.\d)"
    r"|(?<![\w.+-])\+1[2-9]\d{9}(?!\w)"
)
OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
IPV4 = re.compile(rf"(?<![\w.])(?:{OCTET}\.){{3}}{OCTET}(?!\w|\.\d)")


def mask_emails(text: str) -> tuple[str, int]:
    """Return (text with each e-mail address replaced by EMAIL_MASK, number of replacements).

    Like the two functions below, it counts replacements only: masks that the text already contained
    do not count.
    """
    return EMAIL.subn(EMAIL_MASK, text)


def mask_phone_numbers(text: str) -> tuple[str, int]:
    """Return (text with each US phone number replaced by PHONE_MASK, replacements)."""
    return PHONE.subn(PHONE_MASK, text)


def mask_ips(text: str) -> tuple[str, int]:
    """Return (text with each IPv4 address replaced by IP_MASK, number of replacements)."""
    return IPV4.subn(IP_MASK, text)


def mask_personal_data(text: str) -> tuple[str, dict[str, int]]:
    """Return (text with all three kinds masked, replacements by kind)."""
    text, emails = mask_emails(text)
    text, ips = mask_ips(text)  # before the phone numbers: 212.555.010.1 is neither
    text, phones = mask_phone_numbers(text)
    return text, {"emails": emails, "phone_numbers": phones, "ip_addresses": ips}
