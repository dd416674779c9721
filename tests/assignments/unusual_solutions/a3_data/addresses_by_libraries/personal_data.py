"""IPv6 by the module ipaddress, IPv4 by numbers, check digits by tables, addresses from their @."""

# ruff: noqa: F821 - the rest of the module, which is the reference's, has the other names

import ipaddress
import re
from functools import reduce

TWICE = str.maketrans("0123456789", "0246813579")
NAME = re.compile(r"[A-Za-z0-9._%+-]*\Z")
HOST = re.compile(r"@((?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24})(?![A-Za-z0-9])")


def mask_emails(text):
    pieces, done, count = [], 0, 0
    for host in HOST.finditer(text):
        name = NAME.search(text[max(host.start() - 65, 0) : host.start()])[0]
        start = host.start() - len(name)
        if start >= done and 1 <= len(name) <= 64 and not name.startswith("."):
            pieces += [text[done:start], EMAIL_MASK]
            done, count = host.end(), count + 1
    return "".join(pieces) + text[done:], count


def is_ipv6(address):
    try:
        return ipaddress.IPv6Address(address).scope_id is None
    except ValueError:
        return False


def mask_ips(text):
    """Runs of one kind of character, then what is around them."""
    text, sixes = replaced(text, r"[0-9A-Fa-f:.]+", six)
    text, fours = replaced(text, r"[0-9.]+", four)
    return text, sixes + fours


def replaced(text, pattern, part):
    count = 0

    def mask(run):
        nonlocal count
        around = text[max(run.start() - 1, 0) : run.start()], text[run.end() : run.end() + 1]
        start, end = part(run[0], *(bool(re.match(r"\w", each)) for each in around))
        count += start < end
        return run[0][:start] + (IP_MASK if start < end else "") + run[0][end:]

    return re.sub(pattern, mask, text), count


def six(run, word_before, word_behind):
    if word_behind or (word_before and run[0] not in ":."):
        return 0, 0
    start = len(run) - len(run.lstrip("."))
    end = max(start, len(run.rstrip(".")))
    if run[start:end].startswith(":") and not run.startswith("::", start):
        start += 1
    if run[start:end].endswith(":") and not run[start:end].endswith("::"):
        end -= 1
    address = run[start:end]
    return (start, end) if is_ipv6(address) and names_a_host(address) else (0, 0)


def four(run, word_before, word_behind):
    """A point may follow the address, but is not before it, and no digit follows the point."""
    head = re.match(r"[0-9]+(?:\.[0-9]+){3}(?=\.*\Z|\.\.)", run)
    if word_before or head is None or (word_behind and head.end() == len(run)):
        return 0, 0
    right = all(number == str(int(number)) and int(number) < 256 for number in head[0].split("."))
    return (0, head.end()) if right else (0, 0)


def passes_luhn(digits):
    right = digits[::-1]
    return sum(map(int, right[::2] + right[1::2].translate(TWICE))) % 10 == 0


def is_iban(compact):
    if not re.fullmatch("[A-Z]{2}[0-9]{2}[A-Z0-9]+", compact):
        return False
    if IBAN_LENGTHS.get(compact[:2]) != len(compact):
        return False
    digits = "".join(str(int(each, 36)) for each in compact[4:] + compact[:4])
    return reduce(lambda rest, digit: (10 * rest + int(digit)) % 97, digits, 0) == 1
