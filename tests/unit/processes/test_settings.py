from __future__ import annotations

from pathlib import Path

import pytest

from quarterdeck.lifecycle.logs import LogBounds
from quarterdeck.processes.settings import Settings, read_settings


def bounds(**environment: str) -> LogBounds:
    return read_settings({"QUARTERDECK_HOME": "/x", **environment}, Path("/"), Path("/")).log_bounds


def test_bounds_on_logs_come_from_the_environment() -> None:
    assert bounds() == LogBounds()
    assert bounds(
        QUARTERDECK_LOGS_KEEP="7d",
        QUARTERDECK_LOGS_BYTES="10GiB",
        QUARTERDECK_LOGS_PROJECT_BYTES="1GiB",
        QUARTERDECK_LOGS_JOB_BYTES="none",
    ) == LogBounds(7 * 86400.0, 10 * 2**30, 2**30, None)


@pytest.mark.parametrize("text", ["soon", "0d", "-3d"])
def test_wrong_bounds_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"QUARTERDECK_LOGS_KEEP: .*write none"):
        bounds(QUARTERDECK_LOGS_KEEP=text)


URL = "postgresql+psycopg://quarterdeck:s3cr3t@db/quarterdeck"


def given(**environment: str) -> Settings:
    return read_settings({"QUARTERDECK_HOME": "/x", **environment}, Path("/"), Path("/"))


@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_what_holds_passwords_may_come_from_files(tmp_path: Path, mode: int) -> None:
    url, options = tmp_path / "url", tmp_path / "options"
    url.write_text(URL + "\n")
    options.write_text('{"secret": "s3cr3t"}\n')
    url.chmod(mode)
    options.chmod(mode)
    settings = given(
        QUARTERDECK_DATABASE_URL_FILE=str(url), QUARTERDECK_ARTIFACTS_OPTIONS_FILE=str(options)
    )
    assert (settings.database_url, settings.artifacts_options) == (URL, {"secret": "s3cr3t"})
    assert "s3cr3t" not in repr(settings)


def test_empty_variables_count_as_unset() -> None:
    settings = given(
        QUARTERDECK_DATABASE_URL="", QUARTERDECK_DATABASE_URL_FILE="",
        QUARTERDECK_ARTIFACTS_OPTIONS="",
    )  # fmt: skip
    assert (settings.database_url, settings.artifacts_options) == (
        "sqlite:////x/quarterdeck.db",
        {},
    )


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (URL, 0o604, "mode 604, everybody can read it: run `chmod o= "),
        ("  \n", 0o600, "is empty"),
        (None, 0o600, "cannot read .*No such file"),
    ],
)
def test_a_wrong_file_is_refused_with_its_variable_and_without_its_text(
    tmp_path: Path, content: str | None, mode: int, said: str
) -> None:
    file = tmp_path / "url"
    if content is not None:
        file.write_text(content)
        file.chmod(mode)
    with pytest.raises(ValueError, match=f"^QUARTERDECK_DATABASE_URL_FILE: .*{said}") as refused:
        given(QUARTERDECK_DATABASE_URL_FILE=str(file))
    assert "s3cr3t" not in str(refused.value)


def test_a_value_and_a_file_of_it_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="both set: unset one"):
        given(QUARTERDECK_DATABASE_URL=URL, QUARTERDECK_DATABASE_URL_FILE=str(tmp_path / "url"))
