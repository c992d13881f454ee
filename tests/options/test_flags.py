"""The syntax of a command line: Go's, as upstream's users type it."""

import pytest
from typed_options import refusal, typed


@pytest.mark.parametrize(
    "argv",
    [
        ["-etcd-prefix=/x"],
        ["--etcd-prefix=/x"],
        ["-etcd-prefix", "/x"],
        ["--etcd-prefix", "/x"],
        ["-etcd-prefix=/y", "-etcd-prefix=/x"],
        ["-etcd-prefix=/x///"],
    ],
)
def test_a_flag_has_one_dash_or_two_and_its_value_after_an_equals_sign_or_a_blank(
    argv: list[str],
) -> None:
    assert typed(*argv).etcd.prefix == "/x"


@pytest.mark.parametrize("text", ["--", "-", "-v", "-h", "--etcd-prefix=/x", "a=b", "a b"])
def test_the_next_word_is_the_value_even_with_a_dash(text: str) -> None:
    credentials = typed("-etcd-username", "me", "-etcd-password", text).etcd
    assert credentials.password == text
    assert typed("-etcd-username=me", f"-etcd-password={text}").etcd == credentials


@pytest.mark.parametrize("text", ["1", "t", "T", "true", "TRUE", "True"])
@pytest.mark.parametrize("text_of_false", ["0", "f", "F", "false", "FALSE", "False"])
def test_booleans_are_gos(text: str, text_of_false: str) -> None:
    """Told by one that is refused when it is true."""
    assert typed(f"-watch-networks={text_of_false}") == typed()
    assert "-watch-networks" in refusal(f"-watch-networks={text}")
    assert "-watch-networks" in refusal("--watch-networks")


@pytest.mark.parametrize("text", ["yes", "on", "", "tRUE", "2", " true"])
def test_words_other_than_those_of_go_are_not_booleans(text: str) -> None:
    assert "neither true nor false" in refusal(f"-ip-masq={text}")


def test_a_boolean_never_takes_the_next_word() -> None:
    assert refusal("-ip-masq", "true") == (
        'cannot use "true" after -ip-masq: it belongs to no flag; write -ip-masq=true or =false'
    )


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["-etcd-pre=/x"], '"-etcd-pre"'),
        (["--etcd-prefi", "/x"], '"--etcd-prefi"'),
        (["---v=1"], '"---v"'),
        (["-v10"], '"-v10"'),
        (["-V=1"], '"-V"'),
        (["-=1"], '"-"'),
        (["-kube-subnet-mgr"], '"-kube-subnet-mgr"'),
        (["-evil\nline=1"], r'"-evil\nline"'),
        (["stray"], '"stray"'),
        (["-v=1", "stray"], '"stray" after -v'),
        (["--", "-v=1"], '"--"'),
        (["-"], '"-"'),
        ([""], '""'),
        (["-etcd-prefix"], "-etcd-prefix"),
    ],
)
def test_a_word_that_is_not_a_flag_is_named(argv: list[str], named: str) -> None:
    assert f"cannot use {named}" in refusal(*argv)
