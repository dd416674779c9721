"""a3_data.9: repeated lines, paragraphs and documents."""

from collections import Counter

import pytest
from exact_oracle import text_hash

pytestmark = pytest.mark.task("a3_data.9")
MODULE = "data_pipeline.exact_dedup"
MENU = "Home | Products | About us | Contact us | Imprint"  # 49 characters
LICENSE = "Licensed under the terms of the license of this project"


def counts_of(**documents):
    """The number of documents of each line, by its text; underscores are spaces."""
    return Counter({text_hash(line.replace("_", " ")): n for line, n in documents.items()})


def test_the_hashes_of_lines(implementation, a3_data):
    got = implementation(MODULE).line_hashes("  a b\t\na b\n\n \t\nc\r\n")
    causes = {
        "blank lines do not count": {text_hash(line) for line in ("a b", "c", "")},
        "lines are compared without the blanks around them": lambda found: len(found) == 3,
    }
    a3_data.expect(got, {text_hash("a b"), text_hash("c")}, "line_hashes of five lines", causes)


def test_lines_end_at_newlines_only(implementation, a3_data):
    text = "a\x0cb\u2028c\x85d\rf"
    got = implementation(MODULE).line_hashes(text)
    causes = {
        "only \\n ends a line; str.splitlines also cuts at \\x0c, \\x85 and others": {
            text_hash(part) for part in text.splitlines()
        }
    }
    a3_data.expect(got, {text_hash(text)}, f"line_hashes({text!r})", causes)


def test_a_line_counts_once_for_each_document(implementation, a3_data):
    texts = ["a\na\nb", "a\n\nc\n  a", "c", ""]
    got = implementation(MODULE).documents_of_each_line(iter(texts))
    expected = {text_hash("a"): 2, text_hash("b"): 1, text_hash("c"): 2}
    causes = {
        "a line that occurs twice in one document counts once: count documents": (
            lambda found: found.get(text_hash("a")) == 4
        ),
    }
    if got is not None and not isinstance(got, Counter):
        raise a3_data.GradedFailure(
            "documents_of_each_line: return a Counter, so that a line that it does not know has 0"
        )
    a3_data.expect(dict(got or {}), expected, "documents_of_each_line of four texts", causes)


def test_texts_that_are_gone_after_their_turn(implementation, a3_data):
    """Python gives the id() of a text that is gone to a later one."""
    texts = ("\n".join(["menu", f"line {number}"]) for number in range(50))
    got = implementation(MODULE).documents_of_each_line(texts)
    expected = {text_hash("menu"): 50} | {text_hash(f"line {number}"): 1 for number in range(50)}
    causes = {
        "texts of a generator are gone after their turn, and a later one may have the same id()": (
            lambda found: len(found) < len(expected)
        )
    }
    a3_data.expect(dict(got), expected, "documents_of_each_line of a generator", causes)


def dropped(module, text, counts, **settings):
    return module.drop_repeated_lines(text, counts, module.ExactDedupSettings(**settings))


def test_a_menu_is_dropped(implementation, a3_data):
    counts = Counter({text_hash(MENU): 11, text_hash(LICENSE): 10, text_hash("Text."): 1})
    text = f"{MENU}\nText.\n  {MENU}  \n{LICENSE}"
    got = dropped(implementation(MODULE), text, counts)
    causes = {
        "the result is (text, number of lines dropped)": f"Text.\n{LICENSE}",
        "a line in exactly max_documents_per_line documents stays": ("Text.", 3),
        "lines are compared without the blanks around them": (f"Text.\n  {MENU}  \n{LICENSE}", 1),
        "the dropped lines are counted, not what is left": (f"Text.\n{LICENSE}", 2 + 2),
    }
    a3_data.expect(got, (f"Text.\n{LICENSE}", 2), "drop_repeated_lines of a page", causes)


def test_short_lines_go_with_the_long_line_they_touch(implementation, a3_data):
    counts = Counter(dict.fromkeys(map(text_hash, (MENU, "Home", "}", "import sys")), 20))
    text = f"import sys\nx = 1\nHome\n{MENU}\nHome\ny = 2\n}}\n\nHome\n\n{MENU}\n}}\nz"
    got = dropped(implementation(MODULE), text, counts)
    causes = {
        "a run of short repeated lines only stays": (
            "x = 1\ny = 2\n\nz", 8
        ),
        "repeated lines beside a long repeated one go with it": (
            "import sys\nx = 1\nHome\nHome\ny = 2\n}\n\nHome\n\n}\nz", 2
        ),
    }  # fmt: skip
    expected = ("import sys\nx = 1\ny = 2\n}\n\nHome\n\nz", 5)
    a3_data.expect(got, expected, "drop_repeated_lines of runs", causes)


def test_blank_lines_end_a_run(implementation, a3_data):
    counts = Counter({text_hash(MENU): 20, text_hash("Home"): 20})
    text = f"Home\n\n{MENU}\n \nHome\nend"
    got = dropped(implementation(MODULE), text, counts)
    causes = {"a blank line ends a run, so these two short lines stay": ("end", 3)}
    a3_data.expect(got, ("Home\n\nHome\nend", 1), "drop_repeated_lines with blank lines", causes)


def test_no_hole_is_left(implementation, a3_data):
    counts = Counter({text_hash(MENU): 20})
    module = implementation(MODULE)
    for text, expected in [
        (f"{MENU}\n\na\n\n{MENU}\n \n\nb\n{MENU}\n", ("a\n\nb", 3)),
        ("\n\na\n\n\n\nb\n", ("\n\na\n\n\n\nb\n", 0)),
        (f"a\n\x0c\n\xa0\nb\n{MENU}", ("a\n\x0c\n\xa0\nb", 1)),
        (MENU, ("", 1)),
        ("", ("", 0)),
    ]:
        causes = {
            "here a blank line has only spaces and tabs, and no form feed or U+00A0": (
                lambda found, expected=expected: "\x0c" in expected[0]
            ),
            "where lines were dropped, two or more blank lines become one, and the text loses the "
            "line ends around it": lambda found: isinstance(found, tuple) and found[1] > 0,
            "a text of which nothing is dropped stays as it is, also its blank lines": (
                lambda found: isinstance(found, tuple) and found[1] == 0
            ),
        }
        a3_data.expect(dropped(module, text, counts), expected, f"of {text!r}", causes)


def test_the_settings_of_lines(implementation, a3_data):
    counts = counts_of(one_line=3, another=2)
    module = implementation(MODULE)
    for settings, expected in [
        ({"max_documents_per_line": 2, "min_line_characters": 8}, ("another\nx", 1)),
        ({"max_documents_per_line": 1, "min_line_characters": 8}, ("x", 2)),
        ({"max_documents_per_line": 2, "min_line_characters": 9}, ("one line\nanother\nx", 0)),
        ({"max_documents_per_line": 3, "min_line_characters": 0}, ("one line\nanother\nx", 0)),
    ]:
        got = dropped(module, "one line\nanother\nx", counts, **settings)
        a3_data.expect(got, expected, f"drop_repeated_lines with {settings}")


def test_indentation_is_not_part_of_the_length(implementation, a3_data):
    counts = Counter({text_hash("}"): 20})
    text = "x\n" + " " * 40 + "}\ny"
    got = dropped(implementation(MODULE), text, counts)
    causes = {"a line is as long as it is without the white space around it": ("x\ny", 1)}
    a3_data.expect(got, (text, 0), "drop_repeated_lines of a short line far to the right", causes)


def without_repeated(module, texts, seen=None, **settings):
    seen = set() if seen is None else seen
    settings = module.ExactDedupSettings(**settings)
    return [module.drop_repeated_paragraphs(text, seen, settings) for text in texts]


def test_the_first_paragraph_stays(implementation, a3_data):
    texts = [f"One.\n\n{MENU}\n\nTwo.", f"{MENU}\n \t\n\nThree.\n\n  {MENU} \n\nFour."]
    got = without_repeated(implementation(MODULE), texts)
    causes = {
        "the first occurrence stays": lambda found: (
            isinstance(found, list) and found[0] != (texts[0], 0)
        ),
        "a dropped paragraph takes the blank lines before it along": lambda found: (
            isinstance(found, list) and found[1][0].count("\n") > 2
        ),
        "paragraphs are compared without the blanks around them": lambda found: (
            isinstance(found, list) and MENU in found[1][0]
        ),
    }
    expected = [(texts[0], 0), ("Three.\n\nFour.", 2)]
    a3_data.expect(got, expected, "drop_repeated_paragraphs of two texts", causes)


def test_short_paragraphs_and_repeats_inside_one_text(implementation, a3_data):
    text = f"Yes.\n\n{MENU}\n\nYes.\n\n{MENU}\nand more\n\n{MENU}"
    got = without_repeated(implementation(MODULE), [text])
    causes = {
        "a paragraph shorter than min_paragraph_characters always stays": lambda found: (
            found[0][0].count("Yes.") == 1
        ),
        "a repeat inside one text is dropped, too": [(text, 0)],
        "a paragraph is what blank lines separate, not a line": lambda found: (
            found[0][0].count(MENU) == 1
        ),
    }
    expected = [(f"Yes.\n\n{MENU}\n\nYes.\n\n{MENU}\nand more", 1)]
    a3_data.expect(got, expected, "drop_repeated_paragraphs of one text", causes)


def test_the_hashes_of_paragraphs_are_added(implementation, a3_data):
    seen = {text_hash(LICENSE)}
    got = without_repeated(implementation(MODULE), [f"{LICENSE}\n\n {MENU}\n\nNo."], seen)
    a3_data.expect(got[0][1], 1, "the number of paragraphs dropped, one of which is in `seen`")
    expected = {text_hash(LICENSE), text_hash(MENU)}
    causes = {
        "add the hash of each paragraph that is long enough to `seen`": {text_hash(LICENSE)},
        "short paragraphs are not added": expected | {text_hash("No.")},
    }
    a3_data.expect(seen, expected, "`seen` afterwards", causes)


def test_the_first_of_each(implementation, a3_data):
    got = implementation(MODULE).first_of_each(iter(["b", "a", "b", "A", "", "a ", "", "a"]))
    causes = {
        "these are the texts; return their positions": ["b", "a", "A", "", "a "],
        "documents are compared as they are: case and blanks count": [0, 1, 4],
        "keep the first of each, not the last": [2, 3, 5, 6, 7],
        "texts that repeat keep their first": [3, 5],
    }
    a3_data.expect(got, [0, 1, 3, 4, 5], "first_of_each of eight texts", causes)


# Files


def after(module, a3_data, contents, **settings):
    """(the files written, the number returned); the folder did not exist before."""
    with a3_data.written_files(contents) as paths:
        out = paths[0].parent.parent / "out" / "deep"
        given = [module.ExactDedupSettings(**settings)] if settings else []
        got = module.deduplicate_lines(paths, out, *given)
        a3_data.expect(a3_data.files_in(paths[0].parent), contents, "the input files afterwards")
        return a3_data.files_in(out), got


def test_lines_that_repeat_go_everywhere(implementation, a3_data):
    contents = {"b.txt": b"one\ntwo\nthree\n", "a.txt": b"two\nfour\nfour\nfive"}
    got, count = after(implementation(MODULE), a3_data, contents)
    causes = {
        "a line that repeats is dropped in all places, the first too": {
            "a.txt": b"four\nfive", "b.txt": b"one\ntwo\nthree\n"
        },
        "a line that occurs twice in one file is dropped there, too": {
            "a.txt": b"four\nfour\nfive", "b.txt": b"one\nthree\n"
        },
        "count lines over all files, not in each file": {
            "a.txt": b"two\nfive", "b.txt": b"one\ntwo\nthree\n"
        },
        "kept lines keep their bytes, also the missing line end of the last": {
            "a.txt": b"five\n", "b.txt": b"one\nthree\n"
        },
    }  # fmt: skip
    a3_data.expect(got, {"a.txt": b"five", "b.txt": b"one\nthree\n"}, "the files written", causes)
    causes = {"count every place, not every different line": 2}
    a3_data.expect(count, 4, "the number of lines dropped", causes)


@pytest.mark.parametrize("memory", ["exact", "bloom"])
def test_line_ends_blanks_and_bytes(implementation, a3_data, memory):
    contents = {
        "1": b"a\nb\n\na",
        "2": b"c\r\n\nb",
        "3": b" c\r\nc \n\xff\xfe\nd\x0ce\n",
        "4": b"\xff\xfe\r\n\xff\ne\nd\rf\nd",
        "5": b"",
        "6": b"last\r",
        "7": b"last",
    }
    module = implementation(MODULE)
    got, count = after(module, a3_data, contents, memory=memory, bloom_capacity=100)
    expected = {
        "1": b"", "2": b"c\r\n", "3": b" c\r\nc \nd\x0ce\n", "4": b"\xff\ne\nd\rf\nd",
        "5": b"", "6": b"last\r", "7": b"last",
    }  # fmt: skip
    causes = {
        "the end of a line does not count: \\r\\n and \\n are the same": lambda found: (
            isinstance(found, dict) and b"\xfe" in found.get("3", b"")
        ),
        "only the line end does not count: blanks around a line do": lambda found: (
            isinstance(found, dict) and b"c" not in found.get("3", b"c")
        ),
        "a blank line is a line like any other": lambda found: (
            isinstance(found, dict) and b"\n\n" in found.get("1", b"") + found.get("2", b"")
        ),
        "kept lines keep their bytes, with their line ends": lambda found: (
            isinstance(found, dict) and found.get("2") in (b"c\n", b"c")
        ),
        "a \\r without \\n behind it ends no line, and belongs to it": lambda found: (
            found.get("6") != b"last\r"
        ),
        "a file of which nothing is left is written, too: empty": lambda found: (
            isinstance(found, dict) and set(found) != set(expected)
        ),
    }
    a3_data.expect(got, expected, f"the files written with memory={memory!r}", causes)
    a3_data.expect(count, 8, "the number of lines dropped")


@pytest.mark.parametrize("wrong", ["same-name", "missing", "inside", "link"])
def test_files_that_are_refused(implementation, a3_data, wrong):
    module = implementation(MODULE)
    with a3_data.written_files({"a.txt": b"x\nx\n", "b.txt": b"y"}) as paths:
        base = paths[0].parent.parent
        folder, names = base / "out", ["a.txt"]
        if wrong == "same-name":
            (base / "c").mkdir()
            (base / "c" / "a.txt").write_bytes(b"z")
            paths.append(base / "c" / "a.txt")
        elif wrong == "missing":
            paths.append(paths[0].parent / "none.txt")
            names = ["none.txt"]
        elif wrong == "link":
            folder, names = base / "link", []
            folder.symlink_to(paths[0].parent)
        else:
            folder, names = base / "out" / ".." / "in", []
        what = f"deduplicate_lines ({wrong})"
        a3_data.raises(ValueError, lambda: module.deduplicate_lines(paths, folder), what, names)
        a3_data.expect(a3_data.files_in(base / "out"), {}, f"the folder after {what}")
        inputs = {"a.txt": b"x\nx\n", "b.txt": b"y"}
        a3_data.expect(a3_data.files_in(base / "in"), inputs, f"the inputs after {what}")


def test_other_files_of_the_folder_stay(implementation, a3_data):
    with a3_data.written_files({"a.txt": b"x\ny\nx\n"}) as paths:
        folder = paths[0].parent.parent / "out"
        folder.mkdir()
        (folder / "old.txt").write_bytes(b"y\n")
        (folder / "a.txt").write_bytes(b"from the run before")
        implementation(MODULE).deduplicate_lines([str(paths[0])], str(folder))
        expected = {"a.txt": b"y\n", "old.txt": b"y\n"}
        a3_data.expect(a3_data.files_in(folder), expected, "a folder with other files, afterwards")
