"""`lm tokenizer encode`, `decode`, `inspect`, `merges`, `compare`: output and errors."""

import html
import io
import json
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import preloaded_python
import pytest
import typer
from rich.cells import cell_len
from rich.console import Console
from typer.testing import CliRunner

from data_pipeline.shard_writing import VALIDATION, split_of
from lm_core import progress
from lm_core.formats.documents import Document, document_id, write_documents
from lm_core.special_tokens import END_OF_TEXT
from lm_core.user_error import UserError
from lm_course.commands import token_page, tokenizer_commands
from lm_course.commands.tokenizer_choice import chosen_tokenizer
from tokenizer_bpe.characters.character_tokenizer import CharacterTokenizer
from tokenizer_bpe.compiled import lesson_or_compiled
from tokenizer_bpe.formats.tiktoken_patterns import O200K_PATTERN
from tokenizer_bpe.inspection import tokenizer_comparison
from tokenizer_bpe.inspection.sample_sentences import SENTENCES
from tokenizer_bpe.inspection.token_display import token_pieces
from tokenizer_bpe.pretokenization import GPT2_PATTERN, GPT4_PATTERN
from tokenizer_bpe.tokenizer import Tokenizer
from tokenizer_bpe.tokenizer_file import write_tiktoken_ranks

PROJECT = Path(__file__).parents[3]
MERGES = [(b"t", b"h"), (b"th", b"e"), (b" ", b"the"), (b" ", b"t"), (b"\xc3", b"\xa9")]
VOCAB = {byte: bytes([byte]) for byte in range(256)}
VOCAB |= {256 + rank: left + right for rank, (left, right) in enumerate(MERGES)}
ODD_TEXT = f"the  théé\r\n\t漢字\n{END_OF_TEXT}\x1b[31m the\u202e العام the"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: runs/demo and runs/other have a tokenizer; ranks.tiktoken is one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "60")
    for name in ("FORCE_COLOR", "NO_COLOR", "LM_STAND_INS"):
        monkeypatch.delenv(name, raising=False)
    Tokenizer(VOCAB, MERGES, [END_OF_TEXT]).save("runs/demo/tokenizer.json")
    Tokenizer(VOCAB, MERGES[:3], []).save("runs/other/tokenizer.json")
    write_tiktoken_ranks(Tokenizer(VOCAB, MERGES), Path("ranks.tiktoken"))
    return tmp_path


@pytest.fixture
def lm(folder: Path):
    """Run `lm tokenizer ...` in this process; errors are raised as exceptions."""
    app = typer.Typer()
    tokenizer_commands.register(app)

    def run(*arguments: str, given: str | bytes = "", **environment: str) -> str:
        result = CliRunner().invoke(
            app, list(arguments), input=given, env=environment, catch_exceptions=False
        )
        assert result.exit_code == 0, result.output
        return result.stdout_bytes.decode()

    return run


def environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    return {**kept, "PYTHONPATH": str(PROJECT), "COLUMNS": "60"}


def error_of(folder: Path, *arguments: str, given: bytes = b"") -> str:
    """Run the real command in its own process, and return its error."""
    command = ["-m", "lm_course", "tokenizer", *arguments]
    done = preloaded_python.run(command, folder, environment(), given=given)
    assert done.returncode == 2, done.stderr
    return done.stderr


def start(folder: Path, *arguments: str, **options: object) -> subprocess.Popen[bytes]:
    """Start the real command in its own process, with pipes."""
    return subprocess.Popen(
        [sys.executable, "-m", "lm_course", "tokenizer", *arguments],
        cwd=folder,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def test_encode_prints_ids_and_decode_gives_the_text_back(lm) -> None:
    assert lm("encode", f"the the{END_OF_TEXT}") == "257 258 261\n"
    assert lm("decode", "257", "258", "261") == f"the the{END_OF_TEXT}"
    ids = lm("encode", ODD_TEXT)
    assert lm("decode", given=ids) == ODD_TEXT
    assert lm("decode", given=ids.replace(" ", "\n\n")) == ODD_TEXT
    assert lm("decode", "257 258", " 261\n") == lm("decode", "257", "258", "261")
    for listed in ("257,258,261", "[257, 258, 261]", "[257,258,\n261]"):
        assert lm("decode", listed) == lm("decode", "257", "258", "261")
        assert lm("decode", given=listed) == lm("decode", "257", "258", "261")
    assert lm("decode", "[257,", "258,", "261]") == lm("decode", "257", "258", "261")
    assert lm("decode", "[]") == ""
    assert lm("decode", "195") == "\ufffd"
    assert lm("encode", "") == "\n"
    assert lm("decode", given="") == ""


def test_encode_takes_a_file_or_stdin_as_they_are(lm, folder: Path) -> None:
    """Also if ids come in many batches, and the bytes of one character in two reads."""
    text = ODD_TEXT * 800
    (folder / "text.txt").write_bytes(text.encode())
    expected = " ".join(map(str, chosen_tokenizer(None, None).encode(text))) + "\n"
    assert expected.count(" ") > 3 * tokenizer_commands.IDS_AT_ONCE
    assert lm("encode", "--file", "text.txt") == expected
    assert lm("encode", given=text.encode()) == expected


def test_encode_takes_compiled_code_for_a_large_file(lm, folder: Path, monkeypatch) -> None:
    text = ODD_TEXT * 20
    (folder / "text.txt").write_bytes(text.encode())
    before = lm("encode", "--file", "text.txt")
    calls = []
    encode_file = lesson_or_compiled.encode_file
    monkeypatch.setattr(
        lesson_or_compiled, "encode_file", lambda *a: calls.append(a) or encode_file(*a)
    )
    assert lm("encode", "--file", "text.txt") == before
    assert calls == []
    monkeypatch.setattr(lesson_or_compiled, "COMPILED_FROM_BYTES", len(text.encode()))
    assert lm("encode", "--file", "text.txt") == before
    assert lm("encode", text) == before
    assert len(calls) == 1


@pytest.mark.parametrize("block", [1, 2, 3, 7])
def test_reading_in_blocks_changes_nothing(monkeypatch, block: int) -> None:
    monkeypatch.setattr(tokenizer_commands, "READ_BYTES", block)
    stream = io.BytesIO(ODD_TEXT.encode())
    assert "".join(tokenizer_commands._decoded(stream, "stdin")) == ODD_TEXT
    words = tokenizer_commands._words(tokenizer_commands._decoded(io.BytesIO(b" 12\n 345 6"), "-"))
    assert list(words) == ["12", "345", "6"]
    for broken, position in ((b"abc\xff", 3), ("ab漢".encode()[:-1], 2), ("é漢".encode()[:-2], 2)):
        with pytest.raises(ValueError, match=f"^stdin: not UTF-8 at byte {position};"):
            list(tokenizer_commands._decoded(io.BytesIO(broken), "stdin"))


def test_encode_gives_ids_before_its_input_ends(folder: Path) -> None:
    """Encoding does not wait for the end: the pipe stays open until ids have been printed."""
    with start(folder, "encode") as process:
        process.stdin.write(b"the cat " * 10_000)
        process.stdin.flush()
        assert process.stdout.read(4) == b"257 "
        process.stdin.close()
        rest = process.stdout.read()
    assert rest.count(b"258 32 99 97 116") == 9_999
    assert process.returncode == 0


def test_inspect_shows_tokens_without_colours(lm) -> None:
    assert lm("inspect", f"the  thé\n{END_OF_TEXT}\x1b").splitlines() == [
        *("the│␣│␣│th│é│⏎│", "<|endoftext|>│<1b>", ""),
        "8 tokens · 24 bytes · 3.00 bytes per token",
    ]
    assert lm("inspect", "") == "\n0 tokens · 0 bytes\n"
    assert lm("inspect", given="漢").startswith("<e6>│<bc>│<a2>\n")
    assert "\u202e" not in lm("inspect", ODD_TEXT)


@pytest.mark.parametrize("term", ["xterm", "xterm-256color"])
def test_inspect_shows_tokens_in_colours(lm, term: str) -> None:
    """Neighbouring tokens differ, and only colours separate them."""
    output = lm("inspect", "thethethethethe", FORCE_COLOR="1", TERM=term)
    line = output.splitlines()[0]
    backgrounds = re.findall(r"(4[0-7]|48;5;\d+)mthe\x1b\[0m", line)
    assert len(backgrounds) == 5
    assert all(a != b for a, b in pairwise(backgrounds))
    assert re.sub(r"\x1b\[[\d;]*m", "", line) == "the" * 5
    assert "\x1b[1;7m<|endoftext|>" in lm("inspect", END_OF_TEXT, FORCE_COLOR="1", TERM=term)
    assert "the│the" in lm("inspect", "thethe", FORCE_COLOR="1", TERM=term, NO_COLOR="1")


@pytest.mark.parametrize("width", [60, 80, 7])
@pytest.mark.parametrize("colours", [None, "truecolor"])
def test_lines_end_between_tokens_and_after_newlines(folder, width: int, colours) -> None:
    console = Console(file=io.StringIO(), width=width, color_system=colours, no_color=not colours)
    pieces = token_pieces(chosen_tokenizer(None, None), "the cat 漢字, the hat\n" * 6)
    lines = [line.plain for line in tokenizer_commands.token_lines(pieces, console)]
    assert max(map(cell_len, lines)) <= width
    assert "".join(lines).replace("│", "") == "the␣cat␣<e6><bc><a2><e5><ad><97>,␣the␣hat⏎" * 6
    assert sum(line.rstrip("│").endswith("⏎") for line in lines) == 6
    borders = 0 if colours else len(pieces) - 1
    assert "".join(lines).count("│") == borders, "also where a line ends"
    assert all(line.endswith("│") for line in lines[:-1]) or colours
    assert "".join(lines).count("⏎") == 6
    assert not any(re.search("<[^>]*$|^[^<]*>", line) for line in lines)


def test_the_page_has_each_token_and_its_id(lm, folder: Path) -> None:
    text = f"the <b> thé\n{END_OF_TEXT}العام\xff\ud7ff"
    printed = lm("inspect", text, "--html", "out/page.html")
    assert printed.endswith("wrote out/page.html\n")
    page = (folder / "out" / "page.html").read_text(encoding="utf-8")
    body = page.partition('<div class="text">')[2].partition("</div>")[0]
    spans = re.findall(r'<span class="(\w+)" title="id (\d+)">(.*?)</span>', body, flags=re.DOTALL)
    assert " ".join(token_id for _, token_id, _ in spans) == lm("encode", text).strip()
    shown = ["".join(re.split("</?i>", content)) for _, _, content in spans]
    assert [html.unescape(each) for each in shown[:6]] == ["the", "␣", "<", "b", ">", "␣"]
    assert ("special", "261", "&lt;|endoftext|&gt;") in spans
    kinds = [kind for kind, _, _ in spans]
    assert all(a != b for a, b in pairwise(kinds))
    assert "<i>⏎</i>\n</span>" in body
    assert html.escape(printed.splitlines()[-2]) in page, "the counts"
    for colour in token_page.LIGHT + token_page.DARK:
        assert colour in page
    assert "prefers-color-scheme: dark" in page
    assert not re.search(r"<script|https?:|src=|href=|@import|url\(", page)


def test_merges_of_each_word_in_turn(lm) -> None:
    printed = [line.rstrip() for line in lm("merges", f"the thé{END_OF_TEXT}").splitlines()]
    assert printed == [
        *("the", " rank  tokens", "       t h e", "    0  th e", "    1  the", "  ids  257"),
        *("", "␣thé", " rank  tokens", "       ␣ t h <c3> <a9>", "    0  ␣ th <c3> <a9>"),
        *("    4  ␣ th é", "  ids  32 256 260"),
        *("", "<|endoftext|>", " rank  tokens", "       <|endoftext|>", "  ids  261  (special)"),
    ]


@pytest.mark.parametrize("columns", [60, 80])
def test_merges_of_a_long_word_stay_in_their_column(lm, columns: int) -> None:
    lines = lm("merges", "the" * 30, COLUMNS=str(columns)).splitlines()
    assert max(map(cell_len, lines)) <= columns
    rows = lines[lines.index(next(line for line in lines if line.startswith(" rank"))) + 1 :]
    assert all(re.match(r"( {7}| +\d+  | {2}ids  )\S", line) for line in rows)


def test_compare_prints_figures_of_each(lm, folder: Path, monkeypatch) -> None:
    (folder / "text.txt").write_text("the the the the" * 40)
    monkeypatch.setattr(
        tokenizer_comparison,
        "encoding_speeds",
        lambda tokenizers, *rest: [
            {"ours": 6.0, "compiled": compiled, "tiktoken": 24.0, "tokenizers": "not installed"}
            for _, compiled in zip(tokenizers, [60.0, "not compiled"], strict=True)
        ],
    )
    for columns in (60, 80):
        printed = lm("compare", "demo", "ranks.tiktoken", "--file=text.txt", COLUMNS=str(columns))
        assert max(map(cell_len, printed.splitlines())) <= columns
    rows = [line.split() for line in printed.splitlines()]
    assert ["demo", "262", "3.75", "1.32"] in rows  # 160 tokens, 121 words
    assert ["ranks.tiktoken", "261", "3.75", "1.32"] in rows
    assert ["tokens", "per", "word", *SENTENCES] in rows
    assert ["encoding,", "MB/s", "lesson", "compiled", "tiktoken", "tokenizers"] in rows
    assert ["demo", "6.00", "60.00", "24.00", "(0.25×)", "not", "installed"] in rows
    own = ["ranks.tiktoken", "6.00", "not", "compiled", "24.00", "(0.25×)", "not", "installed"]
    assert own in rows
    text = " ".join(printed.split())
    assert "Measured on 600 bytes of text.txt; words are separated by spaces." in text
    assert "Speeds were measured on this machine just now: the median of 5 runs" in text


def test_compare_on_the_held_out_documents_of_a_run(lm, folder: Path, monkeypatch) -> None:
    """And each .tiktoken file is read with the pattern of the encoding that its name names."""
    texts = [f"the {number} hats" for number in range(60)]
    held_out = [text for text in texts if split_of(document_id(text), 0.25) == VALIDATION]
    row = {"documents_out": len(texts)}
    documents = (Document(document_id(text), text, "", "") for text in texts)
    write_documents(folder / "runs/demo/documents", documents, [row])
    settings = {"shards": {"validation_share": 0.25}}
    (folder / "runs/demo/settings.json").write_text(json.dumps(settings))
    for name in ("o200k_base", "cl100k_base"):
        (folder / f"{name}.tiktoken").write_bytes((folder / "ranks.tiktoken").read_bytes())
    compared = []
    monkeypatch.setattr(
        tokenizer_comparison,
        "compare_tokenizers",
        lambda tokenizers, text, **_: compared.append((tokenizers, text)) or [],
    )
    monkeypatch.setattr(tokenizer_commands, "_print_comparison", lambda *_: None)
    names = ["demo", "o200k_base.tiktoken", "cl100k_base.tiktoken", "ranks.tiktoken"]
    lm("compare", *names, "--held-out=demo")
    ((tokenizers, text),) = compared
    assert 5 < len(held_out) < 30
    assert text == "\n\n".join(held_out)
    patterns = [tokenizer.pattern for _, tokenizer in tokenizers]
    assert patterns == [GPT2_PATTERN, O200K_PATTERN, GPT4_PATTERN, GPT2_PATTERN]
    for arguments, message in [
        (["--held-out=other"], "other: this run has no documents"),
        (["--held-out=demo", "--file=ranks.tiktoken"], "--file or --held-out, not both"),
    ]:
        with pytest.raises(UserError, match=message):
            lm("compare", *arguments)


def test_compare_measures(lm, monkeypatch) -> None:
    """Without arguments: the demo's tokenizer, on the standard library."""
    monkeypatch.setattr(tokenizer_comparison, "standard_library_text", lambda: "the cat " * 100)
    printed = lm("compare")
    assert "800 bytes of Python's standard library" in " ".join(printed.split())
    assert re.search(r"^runs/demo +262 +\d\.\d\d +\d\.\d\d *$", printed, flags=re.MULTILINE)
    speeds = r"^runs/demo +[\d.]+ +[\d.]+ +[\d.]+ \([\d.]+×\) +[\d.]+ \([\d.]+×\)$"
    assert re.search(speeds, printed, flags=re.MULTILINE), printed


def test_compare_says_how_far_it_is_where_there_is_no_terminal(
    folder: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0)
    (folder / "text.txt").write_text("the cat " * 100)
    tokenizer_commands.compare([Path("demo")], Path("text.txt"), None)
    printed, said = capsys.readouterr()
    assert re.findall(r"measure: (\d/5) turns", said) == ["1/5", "2/5", "3/5", "4/5", "5/5"]
    assert "measure:" not in printed


def test_which_tokenizer_is_meant(folder: Path) -> None:
    for given, size in {
        "runs/other/tokenizer.json": 261,
        "runs/other": 261,
        "other": 261,
        "demo": 262,
        "ranks.tiktoken": 261,
    }.items():
        assert chosen_tokenizer(Path(given), None).vocab_size == size, given
    assert chosen_tokenizer(None, None).special_tokens == {END_OF_TEXT: 261}
    (folder / "other").mkdir()
    with pytest.raises(ValueError, match=r"^other/tokenizer\.json: no tokenizer there; make one"):
        chosen_tokenizer(Path("other"), None)


def test_the_pattern_of_a_tiktoken_file(folder: Path, lm) -> None:
    assert chosen_tokenizer(Path("ranks.tiktoken"), None).pattern == GPT2_PATTERN
    assert chosen_tokenizer(Path("ranks.tiktoken"), "gpt4").pattern == GPT4_PATTERN
    with pytest.raises(ValueError, match=r"^--pattern gpt3: expected gpt2, gpt4 or o200k$"):
        chosen_tokenizer(Path("ranks.tiktoken"), "gpt3")
    with pytest.raises(ValueError, match=r"^--pattern is only for \.tiktoken files; .* its own"):
        chosen_tokenizer(None, "gpt4")
    (folder / "text.txt").write_text("the")
    assert "demo" in lm("compare", "demo", "ranks.tiktoken", "--pattern=gpt4", "--file=text.txt")
    with pytest.raises(ValueError, match=r"^--pattern is only for \.tiktoken files"):
        lm("compare", "demo", "other", "--pattern=gpt4", "--file=text.txt")


@pytest.mark.parametrize(
    ("arguments", "given", "message"),
    [
        (["encode", "x", "--tokenizer=no"], b"", "no: no such file or folder, and no such run in"),
        (
            ["encode", "x", "--tokenizer=a/b"],
            b"",
            "a/b/tokenizer.json: no tokenizer there; make one",
        ),
        (
            ["compare", "demmo"],
            b"",
            "demmo: no such file or folder, and no such run in runs/: no tokenizer",
        ),
        (["compare", "demmo"], b"", "or name another in its place"),
        (["merges", ""], b"", 'the word is empty; give one, such as " the"'),
        (["encode", "--file=none.txt"], b"", "none.txt: No such file or directory"),
        (["encode", "x", "--file=ranks.tiktoken"], b"", "give TEXT or --file, not both"),
        (["inspect"], b"a\xff", "stdin: not UTF-8 at byte 1; convert it to UTF-8"),
        (["inspect", "x", "--html=runs"], b"", "--html runs is a folder; name a file, such as"),
        (["decode", "1", "300"], b"", "token id 300 is not in the vocabulary (0 to 261)"),
        (
            ["decode"],
            b"1 (2)",
            "'(2)' is not a token id; ids are whole numbers separated by spaces or commas",
        ),
        (["merges", "x", "--tokenizer=runs/demo/merges.txt"], b"", "merges.txt: not JSON"),
        (["compare", "--file=empty.txt"], b"", "empty.txt: it has no text; use --file to name"),
    ],
)
def test_a_mistake_ends_in_one_line(folder: Path, arguments, given: bytes, message: str) -> None:
    (folder / "empty.txt").touch()
    (line,) = error_of(folder, *arguments, given=given).splitlines()
    assert line.startswith("lm: ") and message in line


def test_without_a_run(folder: Path) -> None:
    (folder / "runs" / "demo" / "tokenizer.json").unlink()
    assert error_of(folder, "inspect", "x") == (
        "lm: runs/demo/tokenizer.json: no tokenizer there; make one with "
        "`lm run recipes/demo_cpu.toml`, or name another with --tokenizer\n"
    )


@pytest.mark.parametrize("command", ["encode", "decode", "inspect", "merges"])
@pytest.mark.parametrize("size", [1, 10_000])
def test_a_closed_pipe_is_not_an_error(folder: Path, command: str, size: int) -> None:
    """As in `lm tokenizer encode ... | head -1`: neither a traceback nor a message."""
    texts = {"decode": "97 " * size, "merges": "the a " * min(size, 500)}
    arguments = [texts["merges"]] if command == "merges" else []
    with start(folder, command, *arguments) as process:
        process.stdout.close()
        process.stdin.write(texts.get(command, "the a " * size).encode())
        process.stdin.close()
        error = process.stderr.read()
    assert error == b""
    assert process.returncode in (0, 1)


def test_a_tokenizer_of_characters_is_not_compared(folder: Path, lm) -> None:
    CharacterTokenizer.of(["a", "b"], [END_OF_TEXT]).save("runs/letters/tokenizer.json")
    assert lm("encode", "ba", "--tokenizer", "letters") == "1 0\n"
    assert lm("decode", "1", "0", "--tokenizer", "letters") == "ba"
    error = error_of(folder, "compare", "demo", "letters")
    assert "expected byte-level BPE, found one token for each character; name another" in error
