"""`${NAME}` in string values."""

from __future__ import annotations

import pytest

from sidefx.config.substitution import substitute

pytestmark = pytest.mark.contract("F02")


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two variables that are set, and one that is empty."""
    monkeypatch.setenv("SFX_A", "one")
    monkeypatch.setenv("SFX_B", "two")
    monkeypatch.setenv("SFX_EMPTY", "")
    monkeypatch.setenv("SFX_NESTED", "${SFX_A}")
    monkeypatch.delenv("SFX_UNSET", raising=False)


@pytest.mark.parametrize(
    ("text", "resolved"),
    [
        ("${SFX_A}", "one"),
        ("x${SFX_A}-${SFX_B}y", "xone-twoy"),
        ("${SFX_UNSET:-fallback}", "fallback"),
        ("${SFX_EMPTY:-fallback}", "fallback"),
        ("${SFX_EMPTY}", ""),
        ("${SFX_UNSET:-}", ""),
        ("${SFX_UNSET:-http://h:80/?a=b}", "http://h:80/?a=b"),
        ("$${SFX_A}", "${SFX_A}"),
        ("$$${SFX_A}", "$${SFX_A}"),
        ("$5 and $SFX_A and 5$", "$5 and $SFX_A and 5$"),
        ("${SFX_NESTED}", "${SFX_A}"),
    ],
)
def test_what_a_reference_comes_to(text: str, resolved: str) -> None:
    """As in a shell, with `$${` for a plain `${`; what a variable holds is not looked at again."""
    assert substitute({"key": text}) == ({"key": resolved}, [])


def test_values_at_any_depth_and_no_keys() -> None:
    """Strings in tables and arrays are resolved; keys and other values stay."""
    tree = {"a": [{"${SFX_A}": "${SFX_A}"}, 3], "b": {"c": True, "d": "${SFX_B}"}}
    assert substitute(tree) == ({"a": [{"${SFX_A}": "one"}, 3], "b": {"c": True, "d": "two"}}, [])


def test_an_unset_variable_is_named_with_its_key() -> None:
    """Each is a problem at its path, and the text stays as it was."""
    tree = {"sinks": {"a": {"urls": ["${SFX_A}", "${SFX_UNSET}/${SFX_GONE}"]}}}
    resolved, (problem,) = substitute(tree)
    assert resolved == {"sinks": {"a": {"urls": ["one", "${SFX_UNSET}/${SFX_GONE}"]}}}
    assert problem.path == "sinks.a.urls[1]"
    assert (
        problem.reason
        == "the environment variable SFX_UNSET is not set and the environment variable SFX_GONE is not set"
    )


@pytest.mark.parametrize("text", ["${", "${}", "${SFX A}", "${SFX_A", "${1A}", "${SFX_A-x}", "${SFX_A:?x}"])
def test_what_is_no_reference_is_a_mistake(text: str) -> None:
    """A `${` that begins no variable is not passed on silently."""
    _, (problem,) = substitute({"key": text})
    assert problem.reason.startswith("'${' begins no variable: write '${NAME}'")
