"""Foreign text: printed, it has no control over a terminal; JSON stays JSON."""

import io
import json
import re
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flannel.printable import LONGEST, as_json, complain, printable, printable_json, say, say_whole

EVIL = "\x1b]0;OWNED\x07\x1b[2J\r\nFORGED\x9b31m\x7f\u202e\u2028\ud800"
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2028\u2029\ud800-\udfff]")

texts = st.text(st.characters())
"""With lone surrogates, which JSON can hold."""
characters = st.text(st.characters(exclude_categories=["Cs"]))


def documents(texts: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    return st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | texts,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
        max_leaves=20,
    )


class TestPrintable:
    def test_control_sequences_are_escaped(self) -> None:
        assert printable("a\x1b[2J\r\nb\x9b\u202e\ud800é") == r"a\x1b[2J\r\nb\x9b\u202e\ud800é"

    def test_text_in_other_scripts_is_unchanged(self) -> None:
        assert printable("Überflug 東京 😀") == "Überflug 東京 😀"

    def test_a_long_text_is_cut_and_marked(self) -> None:
        assert printable("a" * 60_000, 20) == "a" * 17 + "..."
        assert printable("\x1b" * 60_000, 20) == r"\x1b\x1b\x1b\x1b\..."
        assert printable("a" * 20, 20) == "a" * 20

    @given(texts, st.integers(3, 50))
    def test_any_text_is_one_line_of_printable_characters(self, text: str, longest: int) -> None:
        shown = printable(text, longest)
        assert shown.isprintable()
        assert len(shown) <= longest


class TestSay:
    def said(self, *lines: str, encoding: str = "utf-8") -> str:
        raw = io.BytesIO()
        with io.TextIOWrapper(raw, encoding=encoding, write_through=True) as stream:
            with redirect_stdout(stream), redirect_stderr(None):
                say(*lines)
                complain(*lines)  # to a closed one: nobody hears it
            return raw.getvalue().decode(encoding)

    def test_each_text_is_one_line_and_cut(self) -> None:
        assert self.said("one", "t\nwo") == "one\nt\\nwo\n"
        lines = self.said("a" * 60_000, "b").splitlines()
        assert [len(line) for line in lines] == [LONGEST, 1]

    @pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
    def test_no_printed_text_raises_or_controls_the_terminal(self, encoding: str) -> None:
        said = self.said(EVIL + "\u0394", encoding=encoding)
        assert not CONTROL.search(said.removesuffix("\n"))

    def test_a_whole_text_has_the_lines_it_has_and_none_is_cut(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        say_whole("a" * 60_000 + "\n\x1b\U000e0001")
        assert capsys.readouterr().out == "a" * 60_000 + "\n\\x1b\\U000e0001\n"


class TestJson:
    @given(documents(texts))
    def test_any_document_becomes_json_that_every_reader_accepts(self, document: Any) -> None:
        def refuse(word: str) -> None:
            raise AssertionError(f"{word} is not JSON")

        text = as_json(document)
        json.loads(text, parse_constant=refuse)
        assert text.isascii()
        assert text.isprintable()

    def test_nan_and_infinity_become_null(self) -> None:
        nan, infinity = float("nan"), float("inf")
        assert as_json({"a": [nan, -infinity, 1.5], "b": (infinity,)}) == (
            '{"a": [null, null, 1.5], "b": [null]}'
        )

    def test_a_written_document_is_read_back(self) -> None:
        document = {"a": [1, "\x1b\x7f", None, {"b": EVIL}]}
        assert json.loads(as_json(document, indent=2)) == document

    @given(documents(characters))
    def test_a_document_stays_the_same_one_when_it_is_made_printable(self, document: Any) -> None:
        text = json.dumps(document, ensure_ascii=False, indent=1)
        shown = printable_json(text)
        assert not CONTROL.search(shown.replace("\n", ""))
        again = json.loads(shown)
        assert again == document or "NaN" in text

    def test_a_printable_document_is_left_as_it_was_written(self) -> None:
        text = '{\r\n\t"Network": "10.1.0.0/16", "Ort": "Köln"\r\n}'
        assert printable_json(text) == text.replace("\r", "")
