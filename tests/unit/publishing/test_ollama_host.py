"""`OLLAMA_HOST` means here what it means to Ollama."""

import os
import subprocess
import sys

import pytest

from llamaforge.catalog.host import resolve_host
from llamaforge.errors import UsageError


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("   ", "http://127.0.0.1:11434"),
        ("1.2.3.4", "http://1.2.3.4:11434"),
        ("1.2.3.4:1234", "http://1.2.3.4:1234"),
        (":1234", "http://127.0.0.1:1234"),
        ("example.com", "http://example.com:11434"),
        ("http://example.com", "http://example.com:80"),
        ("HTTPS://example.com", "https://example.com:443"),
        ("https://example.com:8443/", "https://example.com:8443"),
        ("https://example.com/ollama/", "https://example.com:443/ollama"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:1234", "http://127.0.0.1:1234"),
        ("http://0.0.0.0", "http://127.0.0.1:80"),
        ("[::]:1234", "http://[::1]:1234"),
        ("::1", "http://[::1]:11434"),
        ("[fd00::1]", "http://[fd00::1]:11434"),
        (' "127.0.0.1:1234" ', "http://127.0.0.1:1234"),
        ("'localhost'", "http://localhost:11434"),
    ],
)
def test_an_address_is_completed(text: str, url: str) -> None:
    assert resolve_host(text).url == url


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        ("", True),
        ("localhost", True),
        ("LOCALHOST:80", True),
        ("127.9.9.9", True),
        ("0.0.0.0", True),
        ("::", True),
        ("[::ffff:127.0.0.1]", True),
        ("[::ffff:8.8.8.8]", False),
        ("192.168.0.2", False),
        ("localhost.example.com", False),
        ("127.0.0.1.example.com", False),
        ("2130706433", False),
        ("127.1", False),
    ],
)
def test_only_this_machine_is_local(text: str, loopback: bool) -> None:
    assert resolve_host(text).is_loopback is loopback


def test_the_environment_is_read_where_nothing_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "10.0.0.1")
    assert resolve_host().url == "http://10.0.0.1:11434"
    assert resolve_host("").url == "http://127.0.0.1:11434"
    monkeypatch.delenv("OLLAMA_HOST")
    assert resolve_host().url == "http://127.0.0.1:11434"


@pytest.mark.parametrize(
    "text",
    [
        "ftp://example.com",
        "unix:///run/ollama.sock",
        "host:port",
        "host:99999",
        "http://[::1",
        "http://user:secretsecret@example.com",
        "me@127.0.0.1",
        "example.com?x=1",
        "exa mple.com",
        "exa\x1bmple.com",
    ],
)
def test_what_is_no_address_is_refused_without_its_secrets(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve_host(text)
    assert caught.value.code == "bad_host"
    assert "secretsecret" not in caught.value.message
    assert "\x1b" not in caught.value.message


@pytest.mark.parametrize("text", ["::1", '"127.0.0.1:1234"', "host:port"])
def test_no_value_of_the_variable_breaks_an_import(text: str) -> None:
    program = "import os, llamaforge.publishing.run; print(os.environ['OLLAMA_HOST'])"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"OLLAMA_HOST": text},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, text), done.stderr
