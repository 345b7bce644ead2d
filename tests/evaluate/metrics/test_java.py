import stat

import pytest

from reverie.errors import MissingExtra, ReverieError
from reverie.evaluate.metrics import java

CAPTIONS = [["a", "dog"]], [[["a", "dog", "runs"]]]


@pytest.fixture
def says(tmp_path, monkeypatch):
    """A java program that says what a version of Java says, and the Java programs beside nothing else."""

    def made(version: str | None) -> None:
        package = tmp_path / "pycocoevalcap"
        (package / "spice" / "lib").mkdir(parents=True, exist_ok=True)
        monkeypatch.setattr(java, "_package", lambda need: package)
        monkeypatch.setenv("JAVA_HOME", str(tmp_path))
        if version is not None:
            program = tmp_path / "bin" / "java"
            program.parent.mkdir(exist_ok=True)
            program.write_text(f"#!/bin/sh\necho '{version}' >&2\n")
            program.chmod(program.stat().st_mode | stat.S_IXUSR)

    return made


@pytest.mark.parametrize("metric", [java.spice, java.meteor_java])
def test_no_java(metric, says):
    says(None)
    with pytest.raises(ReverieError, match=r"there is no java in JAVA_HOME .* install a runtime of Java 8"):
        metric(*CAPTIONS)


@pytest.mark.parametrize("metric", [java.spice, java.meteor_java])
def test_no_java_on_the_path(metric, monkeypatch, tmp_path, says):
    says(None)
    monkeypatch.delenv("JAVA_HOME")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ReverieError, match="no java on the path"):
        metric(*CAPTIONS)


def test_spice_under_a_java_that_is_too_new(says):
    says('openjdk version "17.0.15" 2025-04-15')
    with pytest.raises(ReverieError, match=r"Java 8 only, and .* is Java 17; install a Java 8 runtime"):
        java.spice(*CAPTIONS)


def test_spice_downloads_nothing_in_silence(says):
    says('java version "1.8.0_402"')
    with pytest.raises(ReverieError, match=r"stanford-corenlp-3.6.0.jar .*get_stanford_models"):
        java.spice(*CAPTIONS)


def test_a_java_that_does_not_run(says):
    says("no such thing")
    with pytest.raises(ReverieError, match="does not run"):
        java.meteor_java(*CAPTIONS)


def test_a_program_that_stops_is_no_zero(says):
    says('openjdk version "17.0.15" 2025-04-15')
    with pytest.raises(ReverieError, match="the METEOR program stopped"):
        java.meteor_java(*CAPTIONS)


@pytest.mark.parametrize("metric", [java.spice, java.meteor_java])
def test_the_extra_is_missing(metric, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"reverie\[java-metrics\]"):
        metric(*CAPTIONS)
