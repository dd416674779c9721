"""a3_data.6 to a3_data.8: masks for e-mail addresses and numbers of persons and machines."""

import ipaddress

import pytest

MODULE = "data_pipeline.personal_data"
EMAIL_MASK, PHONE_MASK, IP_MASK = "|||EMAIL_ADDRESS|||", "|||PHONE_NUMBER|||", "|||IP_ADDRESS|||"
CARD_MASK, IBAN_MASK = "|||PAYMENT_CARD|||", "|||IBAN|||"


def check_masked(a3_data, function, text, expected, count, causes):
    """Compare (masked text, count), each with causes of its own."""
    got = function(text)
    what = f"{function.__name__}({text!r})"
    pair = isinstance(got, tuple) and len(got) == 2
    a3_data.true(pair, f"{what}: expected (text, number of replacements)", {"got": got})
    a3_data.expect(got[0], expected, f"the text of {what}", causes)
    counted = {
        "masks that were in the text before do not count": expected.count("|||") // 2,
        "each replacement counts once": lambda number: number > count,
    }
    a3_data.expect(got[1], count, f"the number of {what}", counted)


def check_stays(a3_data, function, text, likely):
    check_masked(a3_data, function, text, text, 0, {likely: lambda got: got != text})


FUNCTIONS = [
    ("a3_data.6", "mask_emails", EMAIL_MASK, "a@b.co"),
    ("a3_data.6", "mask_phone_numbers", PHONE_MASK, "283-182-3829"),
    ("a3_data.7", "mask_ips", IP_MASK, "192.0.2.1"),
    ("a3_data.8", "mask_payment_cards", CARD_MASK, "4111 1111 1111 1111"),
    ("a3_data.8", "mask_ibans", IBAN_MASK, "DE89 3704 0044 0532 0130 00"),
]


@pytest.mark.parametrize(
    ("name", "mask", "data"),
    [
        pytest.param(*each, marks=pytest.mark.task(task), id=each[0])
        for task, *each in FUNCTIONS
    ],
)  # fmt: skip
def test_replacements_are_counted_and_masks_are_not(implementation, a3_data, name, mask, data):
    function = getattr(implementation(MODULE), name)
    causes = {"the text around stays, and so do masks": lambda got: True}
    for text, expected, count in [
        (f"{mask} or ({data}), {data}.", f"{mask} or ({mask}), {mask}.", 2),
        (f"{mask} {mask}", f"{mask} {mask}", 0),
        ("nothing of the kind\n", "nothing of the kind\n", 0),
        ("", "", 0),
    ]:
        check_masked(a3_data, function, text, expected, count, causes)


# a3_data.6


@pytest.mark.task("a3_data.6")
@pytest.mark.parametrize(
    "address",
    ["a@b.co", "first.last+tag@mail.example.co.uk", "x_1%y@sub-domain.example.org", "A@B.CO",
     "-@b.co"],
)  # fmt: skip
def test_emails_are_masked(implementation, a3_data, address):
    causes = {
        "the point behind an address is not part of it": f"Write to {EMAIL_MASK}",
        "all of the address is masked": lambda got: got != f"Write to {address}.",
        "the local part has letters, digits and . _ % + -": f"Write to {address}.",
    }
    function = implementation(MODULE).mask_emails
    check_masked(a3_data, function, f"Write to {address}.", f"Write to {EMAIL_MASK}.", 1, causes)


NOT_EMAILS = [
    ("@decorator a @ b", "a local part and a domain touch the @"),
    ("user@host", "a domain has a point"),
    ("x@y.1", "the last label has letters only"),
    ("x@y.c", "the last label has two letters or more"),
    ("x@y.co1", "a letter or digit behind the last label belongs to it"),
    (".x@y.co", "all characters before the @ are the local part; its first is not a point"),
    ("x@.co", "a label has one character or more"),
]


@pytest.mark.task("a3_data.6")
def test_what_is_no_email_stays(implementation, a3_data):
    for text, likely in NOT_EMAILS:
        check_stays(a3_data, implementation(MODULE).mask_emails, text, likely)


@pytest.mark.task("a3_data.6")
def test_borders_of_an_email(implementation, a3_data):
    function = implementation(MODULE).mask_emails
    long = "a" * 64
    for text, expected, likely in [
        ("a@b.co.1", f"{EMAIL_MASK}.1", "the last end that fits is taken"),
        ("a@b.co.x", f"{EMAIL_MASK}.x", "the last end that fits is taken"),
        ("a@b.co@c.de", f"{EMAIL_MASK}@c.de", "addresses do not overlap"),
        ("a@b.co-x@c.de", f"{EMAIL_MASK}-x@c.de", "a local part is all of the characters before @"),
        ("éa@b.coé", f"é{EMAIL_MASK}é", "letters here are those of ASCII"),
        (f"{long}@b.co", EMAIL_MASK, "64 characters are allowed before the @"),
        (f"{long}a@b.co", f"{long}a@b.co", "more than 64 characters before the @ are too many"),
    ]:
        count = expected.count(EMAIL_MASK)
        check_masked(a3_data, function, text, expected, count, {likely: lambda got: True})


@pytest.mark.task("a3_data.6")
def test_a_long_run_of_letters_takes_no_square(implementation, a3_data):
    """With a pattern of quadratic cost, this takes minutes, and the time limit ends it."""
    text = "a" * 300_000 + "@"
    got = implementation(MODULE).mask_emails(text)
    a3_data.true(got == (text, 0), "300,000 letters and an @ are not an address, and stay")


@pytest.mark.task("a3_data.6")
@pytest.mark.parametrize(
    "number",
    ["283-182-3829", "(283) 182 3829", "(283)-182-3829", "(283)182.3829", "283.182.3829",
     "+1 283-182-3829", "1-283-182-3829", "1(283) 182-3829", "+12831823829", "+1 2831823829",
     "1-2831823829", "+12147483647", "214-748-3647", "9999999999"],
)  # fmt: skip
def test_phone_numbers_are_masked(implementation, a3_data, number):
    text, expected = f"Call {number}. Now", f"Call {PHONE_MASK}. Now"
    causes = {
        "the country code and the brackets belong to the number": lambda got: PHONE_MASK in got,
        "the constants are numbers if they have separators or +1": lambda got: "3647" in got,
        "this is one of the forms in the handout": text,
    }
    function = implementation(MODULE).mask_phone_numbers
    check_masked(a3_data, function, text, expected, 1, causes)


@pytest.mark.task("a3_data.6")
def test_ten_digits_are_a_phone_number(implementation, a3_data):
    causes = {"ten digits without separators are a phone number, too": "ring 2831823829 now"}
    function = implementation(MODULE).mask_phone_numbers
    check_masked(a3_data, function, "ring 2831823829 now", f"ring {PHONE_MASK} now", 1, causes)


NOT_PHONES = [
    *[(str(2**power - less), "2**31, 2**32, 2**33 and those one below are constants")
      for power in (31, 32, 33) for less in (0, 1)],
    ("1 2147483647", "the constants stay, also behind a 1"),
    ("1831823829", "an area code begins with 2 to 9"),
    ("123-456-7890", "an area code begins with 2 to 9"),
    ("12831823829", "eleven digits are not a number, unless there is a separator or a +"),
    ("28318238290", "more digits: not a phone number"),
    ("283-182-38291", "more digits: not a phone number"),
    ("283\n182\n3829", "a separator is one space, point or hyphen, and no other white space"),
    ("283-182\t3829", "a separator is one space, point or hyphen, and no other white space"),
    ("283-182-382٣", "a digit is 0 to 9"),
    ("0.2831823829", "a point directly before: part of a larger number"),
    ("5.283-182-3829", "a point directly before: part of a larger number"),
    ("2831823829.5", "a point and a digit directly behind: part of a larger number"),
    ("2831823829-0000", "a hyphen directly behind: part of a larger number"),
    ("+12831823829-0000", "a hyphen directly behind: part of a larger number"),
    ("x2831823829", "a letter directly before: part of a name"),
    ("283-182-3829é", "a letter directly behind: part of a name"),
    ("2024-01-02", "this is a date"),
]  # fmt: skip


@pytest.mark.task("a3_data.6")
def test_borders_of_a_phone_number(implementation, a3_data):
    function = implementation(MODULE).mask_phone_numbers
    for behind in (".", ".x", ".٣", ","):
        causes = {"only a digit (0 to 9) behind the point makes it part of a larger number":
                  lambda got: PHONE_MASK not in got}  # fmt: skip
        text = f"283-182-3829{behind}"
        check_masked(a3_data, function, text, f"{PHONE_MASK}{behind}", 1, causes)


@pytest.mark.task("a3_data.6")
def test_what_is_no_phone_number_stays(implementation, a3_data):
    for text, likely in NOT_PHONES:
        check_stays(a3_data, implementation(MODULE).mask_phone_numbers, text, likely)


# a3_data.7


def accepted(address):
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        return False
    return True


FORMS = [
    ("1:2:3:4:5:6:7:8", "eight groups"),
    ("1:2:3:4:5:6:7", "seven groups are too few without ::"),
    ("1:2:3:4:5:6:7:8:9", "nine groups are too many"),
    ("fe80::1", ":: stands for the missing groups"),
    ("::", ":: may be alone"),
    ("2001:db8::", ":: may be at the end"),
    ("::FFFF:1", ":: may be at the beginning, and letters may be large"),
    ("1:2:3:4:5:6:7::", ":: stands for one group or more"),
    ("1:2:3:4:5:6:7:8::", ":: stands for one group or more, so at most seven are written"),
    ("1::2::3", ":: occurs once"),
    (":::", "three colons are none of it"),
    ("12345::1", "a group has at most four digits"),
    ("g::1", "digits are 0 to 9 and a to f"),
    ("::ffff:192.0.2.1", "the last two groups may be an IPv4 address"),
    ("1:2:3:4:5:6:1.2.3.4", "an IPv4 address takes the place of two groups"),
    ("1:2:3:4:5:6:7:1.2.3.4", "an IPv4 address takes the place of two groups"),
    ("1.2.3.4::", "an IPv4 address is the end only"),
    ("::1.2.3.256", "octets go up to 255"),
    ("1.2.3.4", "this is IPv4, and not an IPv6 address"),
    (":1:2:3:4:5:6:7", "a single colon is between two groups"),
    ("", "an empty text is not an address"),
]


@pytest.mark.task("a3_data.7")
def test_the_form_of_ipv6(implementation, a3_data):
    for address, likely in FORMS:
        expected = accepted(address)
        got = implementation(MODULE).is_ipv6(address)
        a3_data.expect(got, expected, f"is_ipv6({address!r})", {likely: not expected})


@pytest.mark.task("a3_data.7")
@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1", "192.0.2.53", "255.255.255.255"])
def test_ipv4_addresses_are_masked(implementation, a3_data, address):
    text = f"host {address}:80, {address}."
    causes = {"a number from 0 to 255 is allowed in each place": text}
    function = implementation(MODULE).mask_ips
    check_masked(a3_data, function, text, f"host {IP_MASK}:80, {IP_MASK}.", 2, causes)


NOT_IPV4 = [
    ("256.1.1.1", "octets go up to 255"),
    ("1.1.1.300", "octets go up to 255"),
    ("999.999.999.999", "octets go up to 255"),
    ("1.2.3", "an address has four numbers"),
    ("1.2.3.4.5", "a number of five parts is not an address, and neither are four of them"),
    ("v1.2.3.4", "a letter directly before: a version"),
    ("1.2.3.4b", "a letter directly behind: a version"),
    ("01.2.3.4", "no number begins with a 0, except 0 itself"),
    (".1.2.3.4", "a point directly before: part of a longer number"),
]


@pytest.mark.task("a3_data.7")
def test_what_is_no_ipv4_address_stays(implementation, a3_data):
    for text, likely in NOT_IPV4:
        check_stays(a3_data, implementation(MODULE).mask_ips, text, likely)


@pytest.mark.task("a3_data.7")
@pytest.mark.parametrize(
    "address",
    ["fe80::1", "2001:db8::", "::ffff:192.0.2.1", "1:2:3:4:5:6:7:8", "2001:DB8::A:1", "::1:2:3"],
)
def test_ipv6_addresses_are_masked(implementation, a3_data, address):
    function = implementation(MODULE).mask_ips
    before = "address " if address.startswith("::") else "address:"
    for text, expected in [
        (f"host {address}, {address}.", f"host {IP_MASK}, {IP_MASK}."),
        (f"[{address}]:80 {before}{address}/64", f"[{IP_MASK}]:80 {before}{IP_MASK}/64"),
        (f"xfe80::1, {address} {address}", f"xfe80::1, {IP_MASK} {IP_MASK}"),
    ]:
        causes = {
            "an embedded IPv4 address is part of the IPv6 address, and counts once": (
                lambda got: "." in address and "ffff" in got
            ),
            "points around an address, and one colon, are punctuation": lambda got: IP_MASK in got,
            "this is an IPv6 address": text,
        }
        check_masked(a3_data, function, text, expected, 2, causes)


NOT_IPV6 = [
    *[(text, "names_a_host (given) says that this is not the address of a machine")
      for text in ("00:1b:44:ff:fe:11:3a:b7", "a::b", "x[1::2]", "::1", "add::bad::c")],
    ("12:30:45:67", "too few groups"),
    ("std::vector", "a letter behind the run of digits: a name"),
    ("fe80::1g", "a letter behind the run of digits: a name"),
    ("xfe80::1", "a letter before the run of digits: a name"),
    ("fe80:::1", "the whole run is an address, or nothing of it"),
    ("1:2:3:4:5:6:7:8:9", "the whole run is an address, or nothing of it"),
    ("::ffff:256.0.0.1", "octets go up to 255, also within IPv6"),
    ("fe80::1.: x", "points at both ends are taken away once, and then one colon, not in turns"),
    ("::1:2:3x", "a word character directly behind the run: no address, however the run begins"),
]  # fmt: skip


@pytest.mark.task("a3_data.7")
def test_what_is_before_an_ipv6_address(implementation, a3_data):
    function = implementation(MODULE).mask_ips
    for text, expected in [
        ("host.fe80::1", f"host.{IP_MASK}"),
        ("host:fe80::1", f"host:{IP_MASK}"),
        ("_::1:2:3", f"_{IP_MASK}"),
    ]:
        causes = {
            "if the run begins with a colon or a point, what is before it does not matter": text
        }
        check_masked(a3_data, function, text, expected, 1, causes)


@pytest.mark.task("a3_data.7")
def test_what_is_no_ipv6_address_stays(implementation, a3_data):
    for text, likely in NOT_IPV6:
        check_stays(a3_data, implementation(MODULE).mask_ips, text, likely)


# a3_data.8

CARDS = ["4111111111111111", "4222222222222", "5555555555554444", "378282246310005",
         "30569309025904", "6759649826438453"]  # fmt: skip
DOUBLED = [0, 2, 4, 6, 8, 1, 3, 5, 7, 9]


def luhn(digits, first=1, subtract=True):
    """Double every second digit, from the right: from the one before the last if `first` is 1."""
    total = 0
    for place, digit in enumerate(map(int, reversed(digits))):
        twice = (DOUBLED[digit] if subtract else 2 * digit) if place % 2 == first else digit
        total += twice
    return total % 10 == 0


@pytest.mark.task("a3_data.8")
@pytest.mark.parametrize(
    "digits",
    ["79927398713", "79927398710", "18", "81", "26", "125", "521", "0", "91", "378282246310005",
     "4222222222222", "00018"],
)  # fmt: skip
def test_the_check_digit(implementation, a3_data, digits):
    expected = luhn(digits)
    causes = {
        "the digits are doubled from the right: the one before the last is the first": (
            lambda got: got == luhn(digits[::-1]) != expected
        ),
        "the check digit itself is not doubled": lambda got: got == luhn(digits, 0) != expected,
        "9 is taken from a doubled digit above 9": (
            lambda got: got == luhn(digits, subtract=False) != expected
        ),
    }
    got = implementation(MODULE).passes_luhn(digits)
    a3_data.expect(got, expected, f"passes_luhn({digits!r})", causes)


@pytest.mark.task("a3_data.8")
def test_issuer_and_length(implementation, a3_data):
    for digits, expected, likely in [
        *[(card, True, "it is in CARD_ISSUERS, and its check digit is right") for card in CARDS],
        ("4111111111111112", False, "the check digit is wrong"),
        ("9999999999999995", False, "no issuer has this prefix"),
        ("0000000000000000", False, "no issuer has this prefix"),
        ("37828224631003", False, "this issuer's numbers have 15 digits"),
        ("4111111111111111003", True, "Visa has 13 to 19 digits"),
        ("2720992222222229", True, "prefixes are compared over their whole length: 2221 to 2720"),
        ("2721002222222226", False, "prefixes are compared over their whole length: 2221 to 2720"),
        ("411111111111111a", False, "this is not a number"),
        ("4111 1111 1111 1111", False, "is_card_number gets digits only"),
        ("٤١١١١١١١١١١١١١١١", False, "a digit is 0 to 9; str.isdecimal knows others, too"),
    ]:
        got = implementation(MODULE).is_card_number(digits)
        a3_data.expect(got, expected, f"is_card_number({digits!r})", {likely: not expected})


@pytest.mark.task("a3_data.8")
def test_groups_of_a_written_card(implementation, a3_data):
    for written, expected, likely in [
        ("4111111111111111", True, "one group is allowed"),
        ("4111 1111 1111 1111", True, "groups may be separated by spaces"),
        ("3782-822463-10005", True, "groups may be separated by hyphens, and differ in length"),
        ("4111 1111-1111 1111", False, "all separators are spaces, or all are hyphens"),
        ("4111  1111 1111 1111", False, "one space is between two groups"),
        ("4111 1111 1111 11 11", False, "a group has three digits or more"),
        ("4111 1111 1111 1112", False, "it is a card number without the separators"),
        ("", False, "an empty text is not a card"),
    ]:
        got = implementation(MODULE).is_written_card(written)
        a3_data.expect(got, expected, f"is_written_card({written!r})", {likely: not expected})


@pytest.mark.task("a3_data.8")
@pytest.mark.parametrize("card", CARDS)
def test_cards_are_masked(implementation, a3_data, card):
    fours = [card[i : i + 4] for i in range(0, len(card), 4)]
    if len(fours[-1]) < 3:
        fours[-2:] = ["".join(fours[-2:])]
    function = implementation(MODULE).mask_payment_cards
    for written in (card, " ".join(fours), "-".join(fours)):
        text = f"Pay {written}. 2024 {written} 123"
        causes = {
            "these are digits of an issuer in groups: spaces, or hyphens": text,
            "other numbers before and behind do not matter": lambda got: got.count(CARD_MASK) == 1,
        }
        check_masked(a3_data, function, text, f"Pay {CARD_MASK}. 2024 {CARD_MASK} 123", 2, causes)


NOT_CARDS = [
    ("4111111111111112", "the check digit is wrong"),
    ("4111 1111-1111 1111", "all separators are spaces, or all are hyphens"),
    ("4111  1111  1111  1111", "one space between two groups"),
    ("4 111111111111111", "a group has three digits or more"),
    ("0.4111111111111111", "a point directly before"),
    ("+4222222222222", "a + directly before"),
    ("x4111111111111111", "a letter directly before"),
    ("4111111111111111x", "a letter directly behind"),
    ("4111111111111111.5", "a point and a digit directly behind"),
    ("41111111111111111111111", "part of a longer number"),
]


@pytest.mark.task("a3_data.8")
def test_what_is_no_card_stays(implementation, a3_data):
    for text, likely in NOT_CARDS:
        check_stays(a3_data, implementation(MODULE).mask_payment_cards, text, likely)


@pytest.mark.task("a3_data.8")
def test_of_several_cards_the_first_and_longest(implementation, a3_data):
    function = implementation(MODULE).mask_payment_cards
    for text, expected, likely in [
        ("4593 4564 1708 5254 0641", f"{CARD_MASK} 0641", "from left to right, without overlaps"),
        ("4111 1111 1111 1111 003", CARD_MASK, "of several from the same place, the longest"),
        ("1234 4111 1111 1111 1111", f"1234 {CARD_MASK}", "a card may begin with any group"),
        ("411 111 111 111 111 118", CARD_MASK, "18 digits may be six groups of three"),
    ]:
        causes = {likely: lambda got: True}
        check_masked(a3_data, function, text, expected, 1, causes)


@pytest.mark.task("a3_data.8")
def test_a_long_row_of_numbers_takes_no_square(implementation, a3_data):
    function = implementation(MODULE).mask_payment_cards

    def steps(count, limit=float("inf")):
        text = " ".join(["1234567"] * count)
        with a3_data.StepCounter(limit) as counter:
            function(text)
        return counter.steps

    few = steps(50)
    many = steps(800, limit=40 * few)
    a3_data.true(
        many <= 30 * few,
        "mask_payment_cards of 800 numbers takes more than 30 times the steps of 50 numbers: a "
        "card has at most 19 digits, so from each number only the next few can be its end",
        {"steps for 50": few, "steps for 800": f"{many:,} or more"},
    )


WITH_LETTERS = ["DEA5370400440532013000", "DEK2370400440532013000", "DEET370400440532013000"]
IBANS = ["DE89370400440532013000", "GB82WEST12345698765432", "NO9386011117947",
         "MT84MALT011000012345MTLCAST001S", "FR1420041010050500013M02606"]  # fmt: skip


@pytest.mark.task("a3_data.8")
@pytest.mark.parametrize("iban", IBANS)
def test_the_remainder_of_an_iban(implementation, a3_data, iban):
    is_iban = implementation(MODULE).is_iban
    likely = {
        iban: "the first four characters move to the end, A is 10 to Z is 35; 1 is left modulo 97",
        iban[:-1]: "each country has one length (IBAN_LENGTHS)",
        iban[:-1] + ("0" if iban[-1] != "0" else "1"): "a changed character changes the remainder",
        "XX" + iban[2:]: "only countries of IBAN_LENGTHS have IBANs",
        iban.lower(): "small letters are not meant",
        iban[:4] + " " + iban[4:]: "is_iban gets characters without spaces",
        "": "an empty text is not an IBAN",
        iban.translate({48 + i: 0xFF10 + i for i in range(10)}): "a digit is 0 to 9",
    }
    for text, cause in likely.items():
        expected = text == iban
        a3_data.expect(is_iban(text), expected, f"is_iban({text!r})", {cause: not expected})


@pytest.mark.task("a3_data.8")
def test_the_length_of_an_iban_is_checked(implementation, a3_data):
    """This one has the remainder 1, and two characters too many for its country."""
    account = "370400440532013000" + "00"
    number = int("".join(str(int(c, 36)) for c in account + "DE00"))
    text = f"DE{98 - number % 97:02}{account}"
    causes = {"its remainder is 1, but an IBAN of DE has 22 characters": True}
    a3_data.expect(implementation(MODULE).is_iban(text), False, f"is_iban({text!r})", causes)
    function = implementation(MODULE).mask_ibans
    check_stays(a3_data, function, text, "an IBAN of DE has 22 characters")


@pytest.mark.task("a3_data.8")
def test_the_check_digits_of_an_iban_are_digits(implementation, a3_data):
    """Each has the remainder 1 and the length of its country."""
    module = implementation(MODULE)
    for text in WITH_LETTERS:
        causes = {"behind the country are two digits, and no letters": True}
        a3_data.expect(module.is_iban(text), False, f"is_iban({text!r})", causes)
        check_stays(a3_data, module.mask_ibans, text, "behind the country are two digits")


@pytest.mark.task("a3_data.8")
@pytest.mark.parametrize("iban", IBANS)
def test_ibans_are_masked(implementation, a3_data, iban):
    function = implementation(MODULE).mask_ibans
    fours = " ".join(iban[i : i + 4] for i in range(0, len(iban), 4))
    for written in (iban, fours):
        text = f"AB12 {written} OK ({written})"
        causes = {"a space behind every four characters is allowed, and none is, too": text}
        check_masked(a3_data, function, text, f"AB12 {IBAN_MASK} OK ({IBAN_MASK})", 2, causes)
    for text, likely in [
        (f"{iban[:5]} {iban[5:]}", "spaces are behind every four characters, or nowhere"),
        (f"x{iban}", "a letter directly before"),
        (f"{iban}_", "a word character directly behind"),
        (f"{iban}0", "part of a longer number"),
        (iban.lower(), "small letters are not meant"),
    ]:
        check_stays(a3_data, function, text, likely)
