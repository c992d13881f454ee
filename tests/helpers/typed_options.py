"""Options as an operator types them, and the errors about wrong ones."""

import pytest

from flannel.errors import BadOption
from flannel.options.table import Options, parse

SECRET = "hunter2"


def typed(*argv: str) -> Options:
    return parse(argv, {})


def refusal(*argv: str, **environ: str) -> str:
    with pytest.raises(BadOption) as caught:
        parse(argv, environ)
    text = str(caught.value)
    assert text.startswith("cannot use ")
    assert text.isprintable()
    return text
