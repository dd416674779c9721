"""a3_data.6 to a3_data.8 on drawn inputs: the space of each graded function."""

import ipaddress

from hypothesis import strategies as st

from lm_course.drawn_inputs.constant_strategies import near_constants, texts_of_code
from lm_course.drawn_inputs.drawn_checks import drawn_checks
from lm_course.drawn_inputs.input_spaces import Space, arguments

NAME = "data_pipeline.personal_data."
AROUND = ["", "", " ", " ", "\n", ".", ",", "-", "+", "(", ")", "[", "]", ":", "/", "_", "x", "é",
          "1", "0.", ".5", " 1 ", "||", "|||", "한", "\u00a0", "@", "#", "%", ".:", ":.", "٣",
          ".٣"]  # fmt: skip
around = st.sampled_from(AROUND)
digit = st.sampled_from("0123456789")


def digits(least, most):
    return st.text("0123456789", min_size=least, max_size=most)


@st.composite
def texts(draw, data, masks):
    """Data of one kind between signs, letters and masks."""
    pieces = []
    for _ in range(draw(st.integers(1, 4))):
        pieces += [draw(around), draw(st.one_of(data, data, data, texts_of_code(masks)))]
        pieces += [draw(around)]
    text = "".join(pieces)
    if draw(st.integers(0, 5)) == 1:  # one character less
        place = draw(st.integers(0, max(len(text) - 1, 0)))
        text = text[:place] + text[place + 1 :]
    return text * draw(near_constants(st.just(1), 1, 40))


masks = st.sampled_from(
    ["|||EMAIL_ADDRESS|||", "|||PHONE_NUMBER|||", "|||IP_ADDRESS|||", "|||PAYMENT_CARD|||",
     "|||IBAN|||"]
)  # fmt: skip

# a3_data.6

local = st.one_of(
    st.sampled_from(["a", "first.last", "x_1%y", "a+b", "-", ".a", "a..b", "A.", "é"]),
    near_constants(st.integers(1, 3), 1, 70).map(lambda size: "a" * size),
)
label = st.one_of(
    st.sampled_from(["b", "mail", "sub-domain", "-", "B2", "", "é", "1"]),
    near_constants(st.integers(1, 3), 1, 70).map(lambda size: "b" * size),
)
last_label = st.one_of(
    st.sampled_from(["co", "org", "c", "1", "c0", "uk", "", "CO", "co1", "coé", "co_"]),
    near_constants(st.integers(2, 3), 1, 30).map(lambda size: "c" * size),
)
emails = st.builds(
    lambda name, labels, last: f"{name}@{'.'.join([*labels, last])}",
    local,
    st.lists(label, max_size=3),
    last_label,
)
separators = st.sampled_from(["-", "-", "-", " ", " ", ".", "", "--", "/", "\n", "\u00a0"])
codes = st.sampled_from(["", "", "", "+1", "1", "+1 ", "1-", "1.", "+1-", "+2 ", "11 ", "+"])
areas = st.sampled_from(
    ["283", "212", "999", "123", "083", "28", "(283)", "(283)", "(123)", "(283"]
)
phones = st.one_of(
    st.builds(
        lambda code, area, one, middle, two, end: f"{code}{area}{one}{middle}{two}{end}",
        codes, areas, separators, digits(3, 3), separators,
        st.one_of(digits(4, 4), digits(4, 4), digits(3, 5), st.just("382٣")),
    ),
    st.builds(lambda code, number: code + number, codes, digits(9, 11)),
    st.builds(lambda code, first, rest: code + first + rest, codes, digit, digits(9, 9)),
    st.builds(
        lambda code, power, less: f"{code}{2**power + less}",
        codes, st.sampled_from([31, 32, 33]), st.sampled_from([-2, -1, 0, 1]),
    ),
)  # fmt: skip

# a3_data.7

octet = st.one_of(st.integers(0, 255), st.sampled_from([0, 255, 256, 300, 999, 1000])).map(str)
octets = st.one_of(octet, octet, octet, st.sampled_from(["00", "01", "", "1a"]))
ipv4 = st.lists(octets, min_size=3, max_size=5).map(".".join)
ipv4_right = st.lists(st.integers(0, 255).map(str), min_size=4, max_size=4).map(".".join)
group = st.one_of(
    st.sampled_from(["0", "1", "db8", "2001", "fFfF", "ab", "00"]),
    st.sampled_from(["", "12345", "g"]),
)
group_right = st.sampled_from(["0", "1", "db8", "2001", "fFfF", "ab", "00", "1b", "fe80"])


@st.composite
def ipv6(draw):
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return ":".join(draw(st.lists(st.one_of(group, ipv4), max_size=10)))
    first, second = (draw(st.lists(group_right, max_size=5)) for _ in range(2))
    if kind == 1:
        return ":".join(draw(st.lists(group_right, min_size=6, max_size=9)))
    if kind == 2:
        second.append(draw(ipv4_right))
    return ":".join(first) + "::" + ":".join(second)


def accepted(address):
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        return False
    return True


# a3_data.8

PREFIXES = [
    "4",
    "51",
    "55",
    "56",
    "2221",
    "2720",
    "2721",
    "34",
    "37",
    "6011",
    "644",
    "659",
    "300",
    "305",
    "3095",
    "36",
    "3528",
    "3589",
    "62",
    "50",
    "63",
    "67",
    "2200",
    "2205",
    "9",
    "0",
]


def with_check_digit(number):
    """The digits with the one behind them that makes the sum a multiple of 10."""
    total = 0
    for place, each in enumerate(map(int, reversed(number))):
        twice = each * 2 if place % 2 == 0 else each
        total += twice - 9 if twice > 9 else twice
    return number + str(-total % 10)


@st.composite
def card_numbers(draw):
    size = draw(st.sampled_from([16, 16, 16, 13, 14, 15, 19, 12, 18, 20]))
    number = draw(st.sampled_from(PREFIXES)) + draw(digits(20, 20))
    number = with_check_digit(number[: size - 1])
    if draw(st.integers(0, 4)) == 1:
        number = number[:-1] + draw(digit)
    return number


@st.composite
def cards(draw):
    number = draw(card_numbers())
    separator = draw(st.sampled_from(["", "", " ", " ", "-"]))
    sizes = draw(st.sampled_from([[4] * 5, [4] * 5, [4, 6, 5], [3] * 7, [5, 2, 9], [4, 4, 4, 7]]))
    groups, start = [], 0
    for size in sizes:
        groups.append(number[start : start + size])
        start += size
    groups = [each for each in [*groups, number[start:]] if each]
    if len(groups) > 1 and len(groups[-1]) < 3 and draw(st.booleans()):
        groups[-2:] = ["".join(groups[-2:])]
    written = separator.join(groups)
    if draw(st.integers(0, 6)) == 1:
        written = written.replace(separator or " ", draw(st.sampled_from(["-", " ", "  "])), 1)
    before = draw(st.sampled_from(["", "", "", "2024 ", "123-", "4111 "]))
    return before + written


COUNTRIES = {"DE": 22, "GB": 22, "NO": 15, "FR": 27, "MT": 31, "BE": 16, "LC": 32, "XX": 20}


@st.composite
def compact_ibans(draw):
    country = draw(st.sampled_from(sorted(COUNTRIES)))
    size = COUNTRIES[country] - 4 + draw(st.sampled_from([0, 0, 0, 0, 1, -1]))
    alphabet = draw(st.sampled_from(["0123456789", "0123456789ABCXYZ"]))
    account = draw(st.text(alphabet, min_size=size, max_size=size))
    number = int("".join(str(int(c, 36)) for c in account + country + "00"))
    check = 98 - number % 97
    if draw(st.integers(0, 4)) == 1:
        check = draw(st.integers(0, 99))
    iban = f"{country}{check:02}{account}"
    return iban if draw(st.integers(0, 9)) != 1 else iban.lower()


@st.composite
def ibans(draw):
    iban = draw(compact_ibans())
    kind = draw(st.integers(0, 6))
    if kind >= 4:
        return iban
    if kind == 3:
        place = draw(st.integers(1, len(iban)))
        return f"{iban[:place]} {iban[place:]}"
    written = " ".join(iban[i : i + 4] for i in range(0, len(iban), 4))
    return written if kind else draw(st.sampled_from(["AB12 ", "DE89 ", ""])) + written


def masking(task, name, data, draws=70):
    space = arguments({"text": texts(data, masks)})
    return Space(task, f"{NAME}{name}", space, draws=draws)


SPACES = [
    masking("a3_data.6", "mask_emails", emails),
    masking("a3_data.6", "mask_phone_numbers", phones, draws=90),
    Space(
        "a3_data.7",
        f"{NAME}is_ipv6",
        arguments({"address": st.one_of(ipv6(), st.text("012af:.", max_size=20), ipv4)}),
        oracle=accepted,
        draws=70,
    ),
    masking("a3_data.7", "mask_ips", st.one_of(ipv6(), ipv4, ipv4_right)),
    Space(
        "a3_data.8",
        f"{NAME}passes_luhn",
        arguments({"digits": st.one_of(digits(1, 24), card_numbers())}),
    ),
    Space(
        "a3_data.8",
        f"{NAME}is_card_number",
        arguments({"digits": st.one_of(card_numbers(), card_numbers(), cards())}),
        draws=60,
    ),
    Space(
        "a3_data.8",
        f"{NAME}is_written_card",
        arguments({"written": st.one_of(card_numbers(), cards(), cards())}),
        draws=60,
    ),
    masking("a3_data.8", "mask_payment_cards", cards()),
    Space(
        "a3_data.8",
        f"{NAME}is_iban",
        arguments({"compact": st.one_of(compact_ibans(), compact_ibans(), ibans())}),
        draws=60,
    ),
    masking("a3_data.8", "mask_ibans", ibans()),
]

test_as_the_reference, test_contracts = drawn_checks(SPACES)
