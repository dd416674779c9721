"""Masks: what is hidden, what stays, and that only replacements are counted.

Addresses are compared with the standard library's `ipaddress`, check digits with sums by another
method.
"""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.personal_data import (
    CARD_MASK,
    EMAIL_MASK,
    IBAN_LENGTHS,
    IBAN_MASK,
    IP_MASK,
    PHONE_MASK,
    is_card_number,
    is_iban,
    is_ipv6,
    mask_emails,
    mask_ibans,
    mask_ips,
    mask_payment_cards,
    mask_personal_data,
    mask_phone_numbers,
    passes_luhn,
)

KINDS = ("emails", "phone_numbers", "ip_addresses", "payment_cards", "ibans")


@pytest.mark.parametrize(
    "address", ["a@b.co", "first.last+tag@mail.example.co.uk", "x_1%y@sub-domain.example.org"]
)
def test_emails_are_masked_and_the_text_around_stays(address):
    assert mask_emails(f"Write to {address}.") == (f"Write to {EMAIL_MASK}.", 1)
    assert mask_emails(f"<{address}>, {address}") == (f"<{EMAIL_MASK}>, {EMAIL_MASK}", 2)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("müller@firma.de", f"mü{EMAIL_MASK}"),
        ("josé@firma.de", "josé@firma.de"),
        ("me@bücher.de", "me@bücher.de"),
        ("me@xn--bcher-kva.de", EMAIL_MASK),
        ("283-182-3829 x12", f"{PHONE_MASK} x12"),
        ("283-182-3829x12", "283-182-3829x12"),
    ],
)
def test_what_the_masks_do_not_see_is_as_the_module_says(text, masked):
    assert mask_personal_data(text)[0] == masked


@pytest.mark.parametrize("text", ["@decorator", "a @ b", "user@host", "x@y.1", "@pytest.mark.skip"])
def test_what_is_no_email_stays(text):
    assert mask_emails(text) == (text, 0)


def test_a_long_run_of_letters_costs_linear_time():
    text = "a" * 200_000
    assert mask_emails(text) == (text, 0)


@pytest.mark.parametrize(
    "number",
    ["283-182-3829", "(283) 182 3829", "(283)-182-3829", "283.182.3829", "+1 283-182-3829",
     "1-283-182-3829", "+12831823829", "2831823829", "+1 2831823829", "1-2831823829",
     "+12147483647", "214-748-3647", "9999999999"],
)  # fmt: skip
def test_phone_numbers_are_masked(number):
    assert mask_phone_numbers(f"Call {number} now") == (f"Call {PHONE_MASK} now", 1)


@pytest.mark.parametrize(
    "text",
    [
        "2147483647",
        "2147483648",
        "4294967295",
        "4294967296",
        "8589934592",
        "1831823829",
        "12147483647",
        "28318238290",
        "0.2831823829",
        "2831823829.5",
        "x2831823829",
        "2831823829-0000",
        "123-456-7890",
        "2024-01-02",
        "283-182-38291",
        "5.283-182-3829",
        "x283-182-3829",
        "283-182-382٣",
    ],
)
def test_what_is_no_phone_number_stays(text):
    assert mask_phone_numbers(text) == (text, 0)


@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1", "192.0.2.53", "255.255.255.255"])
def test_ip_addresses_are_masked(address):
    assert mask_ips(f"host {address}:80, {address}.") == (f"host {IP_MASK}:80, {IP_MASK}.", 2)


@pytest.mark.parametrize(
    "text",
    ["256.1.1.1", "1.1.1.300", "1.2.3", "1.2.3.4.5", "v1.2.3.4", "01.2.3.4", "999.999.999.999"],
)
def test_octets_above_255_and_longer_versions_stay(text):
    assert mask_ips(text) == (text, 0)


def test_masks_already_in_the_text_do_not_count():
    masks = f"{EMAIL_MASK} {PHONE_MASK} {IP_MASK} {CARD_MASK} {IBAN_MASK} "
    masked, counts = mask_personal_data(masks + "a@b.co")
    assert masked == masks + EMAIL_MASK
    assert counts == {**dict.fromkeys(KINDS, 0), "emails": 1}


PERSONAL = ["a@b.co", "2831823829", "283-182-3829", "10.0.0.1", "fe80::1", "4111 1111 1111 1111",
            "378282246310005", "DE89 3704 0044 0532 0130 00", "NO9386011117947", "::", ".", "-",
            "1", "a", "+1", "|", "4111", "é"]  # fmt: skip


@given(
    st.text(alphabet="ab1290.@-()+ |", max_size=60)
    | st.lists(st.sampled_from(PERSONAL), max_size=12).map(" ".join)
)
def test_masking_twice_changes_nothing_more(text):
    once, _ = mask_personal_data(text)
    assert mask_personal_data(once) == (once, dict.fromkeys(KINDS, 0))


def test_a_kind_may_contain_another():
    counts = dict.fromkeys(KINDS, 0)
    assert mask_personal_data("2831823829@b.co") == (EMAIL_MASK, {**counts, "emails": 1})
    iban = "DE83 4111 1111 1111 1111 22"
    assert mask_payment_cards(iban)[1] == 1
    assert mask_personal_data(iban) == (IBAN_MASK, {**counts, "ibans": 1})


def test_every_kind_is_counted_by_itself():
    text = (
        "a@b.co, c@d.org; 10.0.0.1, fe80::1 and 2001:db8::7; 2831823829; "
        "4111 1111 1111 1111; DE89 3704 0044 0532 0130 00"
    )
    masked, counts = mask_personal_data(text)
    assert counts == dict(zip(KINDS, (2, 1, 3, 1, 1), strict=True))
    assert masked == (
        f"{EMAIL_MASK}, {EMAIL_MASK}; {IP_MASK}, {IP_MASK} and {IP_MASK}; {PHONE_MASK}; "
        f"{CARD_MASK}; {IBAN_MASK}"
    )


@given(st.integers(0, 999), st.integers(0, 999))
def test_an_address_is_masked_exactly_if_its_octets_fit(first, last):
    text = f"at {first}.20.30.{last} end"
    assert mask_ips(text)[1] == (first <= 255 and last <= 255)


def standard_library_accepts(address: str) -> bool:
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        return False
    return True


GROUPS = st.lists(
    st.sampled_from(["", "0", "1", "db8", "2001", "fFfF", "12345", "g", "1.2.3.4", "1.2.3.400"]),
    max_size=10,
)


@given(GROUPS.map(":".join) | st.text(alphabet="012af:.", max_size=20))
def test_the_form_of_ipv6_is_that_of_the_standard_library(address):
    assert is_ipv6(address) == standard_library_accepts(address)


@pytest.mark.parametrize(
    "address",
    ["1::2:3:4:5:6:7:8", "1::3:4:5:6:7:8", "1:2:3:4:5:6:7::", "::2:3:4:5:6:7:8", "::", ":::", "",
     "1:2:3:4:5:6:7:8::", "1.2.3.4::", "::1.2.3.4", "1:2:3:4:5:6:1.2.3.4", "1:2:3:4:5:6:7:1.2.3.4",
     "::1.2.3.4:5", ":1:2:3:4:5:6:7", "1:2:3:4:5:6:7:", "::01.2.3.4", "1.2.3.4"],
)  # fmt: skip
def test_borders_of_ipv6_are_those_of_the_standard_library(address):
    assert is_ipv6(address) == standard_library_accepts(address)


@given(st.integers(0, 2**128 - 1), st.lists(st.integers(0, 7)), st.booleans())
def test_ipv6_addresses_are_masked_in_every_form(number, zeros, exploded):
    for group in zeros:
        number &= ~(0xFFFF << (16 * group))
    address = ipaddress.IPv6Address(number % 2**112 | 0x2001 << 112)
    written = address.exploded if exploded else address.compressed
    assert mask_ips(f"at [{written}]:80, {written}.") == (f"at [{IP_MASK}]:80, {IP_MASK}.", 2)
    assert mask_ips(f"address:{written.upper()}/64") == (f"address:{IP_MASK}/64", 1)


@pytest.mark.parametrize(
    "address",
    ["fe80::1", "2001:db8::", "::ffff:192.0.2.1", "64:ff9b::192.0.2.33", "1:2:3:4:5:6:7:8",
     "::1:2:3", "1:2:3:4:5:6:7::", "2001::", "ffff:a:b:c:d:e:f:fffa"],
)  # fmt: skip
def test_ipv6_addresses_are_masked(address):
    assert mask_ips(f"host {address}, {address}") == (f"host {IP_MASK}, {IP_MASK}", 2)


@pytest.mark.parametrize(
    "text",
    ["12:30:45", "12:30:45:67", "00:1b:44:11:3a:b7", "00:1b:44:ff:fe:11:3a:b7", "std::vector",
     "a::b", "add::bad::c", "face::bad:cafe", "x[::2]", "x[1::2]", "x[10::]", "::", "::1", "f::x",
     "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "1::2::3", "12345::1:2", "fe80::1g", "fe80:::1",
     "::ffff:256.0.0.1", "::ffff:1.2.3.4.5", "xfe80::1", "sha1:ab:cd"],
)  # fmt: skip
def test_what_is_no_ipv6_address_stays(text):
    assert mask_ips(text) == (text, 0)


@given(st.text(alphabet="0123456789", min_size=1, max_size=24))
def test_luhn_by_a_table_of_both_digits(digits):
    doubled = [0, 2, 4, 6, 8, 1, 3, 5, 7, 9]
    padded = digits if len(digits) % 2 == 0 else "0" + digits
    total = sum(doubled[int(a)] + int(b) for a, b in zip(padded[::2], padded[1::2], strict=True))
    assert passes_luhn(digits) == (total % 10 == 0)
    assert sum(passes_luhn(digits + check) for check in "0123456789") == 1


# numbers that the networks publish for tests
CARDS = ["4111111111111111", "4222222222222", "5555555555554444", "2223003122003222",
         "378282246310005", "6011111111111117", "30569309025904", "3530111333300000",
         "6200000000000005", "6759649826438453", "2200000000000004"]  # fmt: skip


@pytest.mark.parametrize("card", CARDS)
def test_cards_are_masked_with_and_without_separators(card):
    fours = [card[i : i + 4] for i in range(0, len(card), 4)]
    if len(fours[-1]) < 3:
        fours[-2:] = ["".join(fours[-2:])]
    for written in (card, " ".join(fours), "-".join(fours)):
        assert mask_payment_cards(f"Pay {written}.") == (f"Pay {CARD_MASK}.", 1)
        assert mask_payment_cards(f"2024 {written} 123,{written}")[1] == 2
    wrong = card[:-1] + str((int(card[-1]) + 1) % 10)
    assert not is_card_number(wrong)
    assert mask_payment_cards(wrong) == (wrong, 0)


@pytest.mark.parametrize(
    "text",
    ["4111 1111-1111 1111", "4111  1111  1111  1111", "0.4111111111111111", "+4222222222222",
     "x4111111111111111", "4111111111111111x", "4111111111111111.5", "41111111111111111111111",
     "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1", "411111111111 11 11",
     "11 4111 1111 1111 1x", "0000000000000000", "9999999999999995", "378282246310",
     "4.111111111111111"],
)  # fmt: skip
def test_what_is_no_card_stays(text):
    assert mask_payment_cards(text) == (text, 0)


def test_a_number_that_begins_inside_another_is_part_of_it():
    assert mask_payment_cards("4593 4564 1708 5254 0641") == (f"{CARD_MASK} 0641", 1)
    assert mask_payment_cards("4564 1708 5254 0641") == (CARD_MASK, 1)
    iban = "MT20 BE68 5390 0754 7034 AAAA AAAA AAA"
    assert mask_ibans(iban) == (IBAN_MASK, 1)


def test_the_longest_card_is_masked():
    assert mask_payment_cards("4111 1111 1111 1111") == (CARD_MASK, 1)
    assert mask_payment_cards("4111 1111 1111 1111 003") == (CARD_MASK, 1)


# examples of the registry
IBANS = ["DE89370400440532013000", "GB82WEST12345698765432", "NO9386011117947",
         "MT84MALT011000012345MTLCAST001S", "FR1420041010050500013M02606", "BE68539007547034",
         "CH9300762011623852957"]  # fmt: skip


@pytest.mark.parametrize("iban", IBANS)
def test_ibans_are_masked_with_and_without_spaces(iban):
    spaced = " ".join(iban[i : i + 4] for i in range(0, len(iban), 4))
    for written in (iban, spaced):
        assert mask_ibans(f"AB12 {written} OK ({written})") == (
            f"AB12 {IBAN_MASK} OK ({IBAN_MASK})",
            2,
        )
    assert mask_personal_data(spaced)[1] == {**dict.fromkeys(KINDS, 0), "ibans": 1}


@pytest.mark.parametrize("iban", IBANS)
def test_a_wrong_digit_or_country_or_length_stays(iban):
    for wrong in (iban[:-1], iban + "0", "XX" + iban[2:], iban.lower(), "x" + iban, iban + "_"):
        assert mask_ibans(wrong) == (wrong, 0)
    for place in range(4, len(iban)):
        changed = "1" if iban[place] == "0" else "0"
        assert not is_iban(iban[:place] + changed + iban[place + 1 :])
    uneven = f"{iban[:5]} {iban[5:]}"
    assert mask_ibans(uneven) == (uneven, 0)


@given(st.sampled_from(sorted(IBAN_LENGTHS)), st.integers(0, 10**26))
def test_ibans_of_every_country_by_long_division(country, number):
    account = f"{number:027}"[-(IBAN_LENGTHS[country] - 4) :]
    account = account.rjust(IBAN_LENGTHS[country] - 4, "0")
    remainder = 0
    for character in account + country + "00":
        for digit in str(int(character, 36)):
            remainder = (remainder * 10 + int(digit)) % 97
    check = 98 - remainder
    assert is_iban(f"{country}{check:02}{account}")
    assert not is_iban(f"{country}{check % 97 + 2:02}{account}")
