"""Secrets and personal data are found and masked; numbers, hashes and code are left alone."""

import random
import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamaforge.data.personal_forms import iban_is_right, luhn_is_right
from llamaforge.data.privacy import MAX_FINDINGS, find_private, mask, mask_text, scan
from llamaforge.safe_text import safe_text
from tests.unit.data.row_files import record

BODY = "MIIEpAIBAAKCAQEA7bq0zL9wPfYkV3xq"
JWT = (
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0"
    ".SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c"
)
# Written in two parts, so that no scanner of repositories takes them for real ones.
SECRETS = [
    ("private_key", f"-----BEGIN RSA PRIVATE KEY-----\n{BODY}\n-----END RSA PRIVATE KEY-----"),
    ("private_key", f"-----BEGIN PRIVATE KEY-----\\n{BODY}\\n-----END PRIVATE KEY-----"),
    ("private_key", f"-----BEGIN OPENSSH PRIVATE KEY-----\n{BODY}"),
    ("private_key", f"-----BEGIN PGP PRIVATE KEY BLOCK-----\nVersion: 1\n\n{BODY}"),
    ("aws_access_key", "AKIA" + "IOSFODNN7EXAMPLE"),
    ("aws_access_key", "ASIA" + "Y34FZKBOKMUTVV7A"),
    ("aws_secret_key", "wJalrXUtnFEMI/K7MDENG" + "/bPxRfiCYzq7WmTsKdp"),
    ("github_token", "ghp_" + "16C7e42F292c6912E7710c838347Ae178B4a"),
    ("github_token", "github_pat_" + "11ABCDEFG0a1b2C3d4E5f6_g7H8i9J0k1L2m3N4o5P6"),
    ("gitlab_token", "glpat-" + "a1B2c3D4e5F6g7H8i9J0"),
    ("slack_token", "xoxb-" + "1234567890-abcdefGHIJKLmnop"),
    ("slack_webhook", "https://hooks.slack.com/services/" + "T012AB3CD/B045EF6GH/a1B2c3D4e5F6g7H8"),
    ("stripe_key", "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc"),
    ("openai_key", "sk-proj-" + "abc123DEF456ghi789JKL012mno345"),
    ("openai_key", "sk-" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8s9T0u1V2w3X4"),
    ("anthropic_key", "sk-ant-" + "api03-abcDEF123456_ghiJKL789-mnoPQR"),
    ("huggingface_token", "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYzaBcDeFgH"),
    ("google_key", "AIza" + "SyD-9tSrke72PouQMnMX-a7eZSW0jkFMBWY"),
    ("npm_token", "npm_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"),
    ("sendgrid_key", "SG." + "a1B2c3D4e5F6g7H8i9J0kL.a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8s9T0u1V"),
    ("jwt", JWT),
]
ASSIGNED = [
    'api_key = "9f8Kd73hsLq0ZmXc21"',
    '{"password": "Tr0ub4dor&3-xyzzy99"}',
    '{\\"client_secret\\": \\"q8Zk21LmT0pVx7Rw\\"}',
    "const authToken: 'd41d8cd98f00b204e9800998ecf8427e'",
    "DB_PASSWORD=Zx81kLmQ92PpTr5w\nNEXT=1",
    "export STRIPE_API_KEY=Zx81kLmQ92PpTr5w",
    'x["secret_key"] := `q8Zk21LmT0pVx7Rw`',
]
PERSONAL = [
    ("email", "anna.keller@posteo.de"),
    ("email", "o.brien+lists@mail.cs.uni-town.ac.uk"),
    ("email", "anna.keller@example.com"),
    ("phone", "+49 170 1234567"),
    ("phone", "+1 (415) 555-2671"),
    ("phone", "+1-415-555-2671"),
    ("phone", "+442079460958"),
    ("phone", "+44 (0)20 7946 0958"),
    ("phone", "+33 6 12 34 56 78"),
    ("phone", "0049 170 1234567"),
    ("phone", "(415) 555-2671"),
    ("card", "4111 1111 1111 1111"),
    ("card", "5500-0055-5555-5559"),
    ("card", "5500005555555559"),
    ("card", "3782 822463 10005"),
    ("iban", "DE89 3704 0044 0532 0130 00"),
    ("iban", "DE89370400440532013000"),
    ("iban", "GB82 WEST 1234 5698 7654 32"),
    ("iban", "FR14 2004 1010 0505 0001 3M02 606"),
    ("ip_address", "84.167.22.103"),
    ("ip_address", "2a02:908:1234:5678::1"),
]
INNOCENT = [
    "version 1.2.3.4 of the tool, v10.20.300.40, release 84.167.22.103, ruby-3.44.55.66",
    "Windows 10.0.19041.1288, Chrome/120.0.0.0 Safari/537.36",
    "d41d8cd98f00b204e9800998ecf8427e 550e8400-e29b-41d4-a716-446655440000",
    "commit e83c5163316f89bfbde7d9ab23ca2fb69ef3d7d9, sha256:9f86d081884c7d659a2feaa0c55ad015a3b",
    "2024-01-31 12:30:45.123456 +0200, 31.01.2024, 1999-12-31T23:59:59+00:00, 2001:12:31",
    "$1,234,567.89 and 1 234 567 890 EUR, +50 %, +100000000 and -20000000",
    "x = 3 + 12345678 +98765432; y = a+1234567890; z *= 4111111111111111.5",
    'max_tokens = "one-hundred-and-twenty-eight"; tokenizer: "bert-base-uncased-2024-v2-large"',
    'api_key = "YOUR_API_KEY_HERE_1234"; token = "<your-access-token-1>"',
    'password = "correct-horse-battery-staple"; PASSWORD=changeme_please_2024',
    'token = os.environ["GITHUB_TOKEN_FOR_CI_2"]; secret = "${{ secrets.DEPLOY_TOKEN_2 }}"',
    'key_path = "/etc/ssl/private/server.key"; secret: "config/credentials/prod2.yml"',
    'request_token = "550e8400-e29b-41d4-a716-446655440000"',
    "sk-learn, sk-SK, task-sk-1, sk-this-is-a-slug-of-a-page-that-is-long",
    "hf_model_name_for_testing_everything_here hf_hub_download ghp_ is the prefix",
    "git@github.com:owner/repo.git, user@example.com, you@example.org, @decorator.name",
    "react@18.2.0 @types/node@20.1.0 icon@2x.png root@localhost a@b https://x.org/@anna.de",
    "ISBN 978-3-16-148410-0, 9783161484100, order 1234567890123456, 1700000000000000000",
    "3.141592653589793238 4.242424242424242424 id-4111111111111111 4242-4242-4242-4243",
    "std::vector<a::b> 127.0.0.1 192.168.1.1 10.1.2.200 8.8.8.8 0.0.0.0/0 255.255.255.0",
    "::1 fe80::1 2001:db8::1 12:30:45:10 aa:bb:cc:dd:ee:ff",
    "-----BEGIN PRIVATE KEY----- goes at the top of the file",
    "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A",
    "https://user:password@localhost:8080/ postgres://postgres:postgres@db/x http://h:80@x",
    "https://$USER:$PASS@host/ http://{user}:{pass}@host",
    "eyJ is how it starts: eyJhbGci.eyJ.abc and eyJub3QiOiJhIGp3dCJ9.eyJub3QiOiJhIGp3dCJ9.c2ln",
    "GB29 is a postcode, DE12 345, NL91 ABNA 0417 1643 01, BE68 5390",
    "telephone 12345678, order 0049123, code 001234567890, 00 12 34 56 78 90",
    "(2024) 123-4567 and (100) 200-3000 and f(415) 555-26",
    "AKIATHISISNOTAKEYATALLBECAUSELONG and XAKIAIOSFODNN7EXAMPLE",
    "for i in range(100): print(i, 2**31 - 1, 0x7fffffff, 1e-10, 65535, 4294967296)",
]


def kinds(text: str) -> list[tuple[str, str]]:
    return [(span.kind, text[span.start : span.stop]) for span in find_private(text)]


@pytest.mark.parametrize(("kind", "value"), SECRETS)
@pytest.mark.parametrize("around", ["{}", "Use {} here.", 'x = "{}";', "({}), then", "a\n{}\nb"])
def test_secrets_are_found_in_any_company(kind: str, value: str, around: str) -> None:
    if kind == "aws_secret_key":
        value = f"aws_secret_access_key = {value}"
    found = find_private(around.replace("{}", value))
    assert [(span.kind, span.secret) for span in found] == [(kind, True)]


@pytest.mark.parametrize("text", ASSIGNED)
def test_random_values_with_telling_names_are_secrets(text: str) -> None:
    assert [kind for kind, _ in kinds(text)] == ["assigned_secret"]


def test_a_password_in_a_url_is_a_secret() -> None:
    assert kinds("postgres://app:s3cr3tPw9x@db.internal.net:5432/x") == [
        ("url_password", "s3cr3tPw9x")
    ]


@pytest.mark.parametrize(("kind", "value"), PERSONAL)
@pytest.mark.parametrize("around", ["{}", "Reach me: {}, please.", "<{}>", "a\n{}\nb"])
def test_personal_data_is_found_whole(kind: str, value: str, around: str) -> None:
    text = around.replace("{}", value)
    assert kinds(text) == [(kind, value)]
    assert not any(span.secret for span in find_private(text))


def test_words_behind_an_iban_are_no_part_of_it() -> None:
    assert kinds("GB82WEST12345698765432 IS MINE") == [("iban", "GB82WEST12345698765432")]


@pytest.mark.parametrize("text", INNOCENT)
def test_ordinary_text_and_code_raise_no_alarm(text: str) -> None:
    assert kinds(text) == []


def test_what_overlaps_is_one_finding() -> None:
    text = "api_key='" + "sk-proj-abc123DEF456ghi789JKL012mno345" + "!Zx81kLmQ'"
    assert kinds(text) == [("openai_key", text[9:-1])]


def test_words_behind_a_key_without_an_end_are_no_part_of_it() -> None:
    text = f"-----BEGIN PRIVATE KEY-----\n{BODY}\n{BODY} and then some words"
    assert kinds(text) == [("private_key", text[: -len(" and then some words")])]


def test_a_wrong_check_digit_is_neither_card_nor_account() -> None:
    assert kinds("4111 1111 1111 1112") == []
    assert kinds("DE89 3704 0044 0532 0130 01") == []


@settings(deadline=None)
@given(st.text(alphabet="0123456789", min_size=1, max_size=18))
def test_luhn_has_one_check_digit_for_each_number(digits: str) -> None:
    assert sum(luhn_is_right(f"{digits}{check}") for check in range(10)) == 1


@settings(deadline=None)
@given(st.integers(0, 10**18 - 1), st.integers(1, 96))
def test_iban_check_digits_hold_for_one_remainder_only(account: int, wrong: int) -> None:
    check = 98 - int(f"{account:018}131400") % 97
    assert iban_is_right(f"DE{check:02}{account:018}")
    other = (check + wrong - 2) % 97 + 2
    assert other == check or not iban_is_right(f"DE{other:02}{account:018}")


@settings(deadline=None)
@given(st.text())
def test_a_mask_shows_four_characters_at_most(value: str) -> None:
    masked = mask(value)
    assert safe_text(masked) == masked
    if value.isprintable() and value.isascii():
        assert len(masked) <= 5
    if len(value) < 8:
        assert masked == "…"


@settings(deadline=None)
@given(st.text(max_size=300))
def test_any_text_can_be_searched(text: str) -> None:
    spans = find_private(text)
    assert all(one.stop <= other.start for one, other in pairwise(spans))


@settings(deadline=None)
@given(st.lists(st.sampled_from([v for k, v in SECRETS + PERSONAL if k != "aws_secret_key"])))
def test_nothing_found_is_left_in_a_masked_text(values: list[str]) -> None:
    masked = mask_text(" and then ".join(values))
    assert all(value not in masked for value in values)


@pytest.mark.parametrize(
    "hostile",
    [
        "+1" * 50_000, "+" + "1" * 100_000, "4111 " * 20_000, "a@" * 50_000, "a." * 50_000 + "@",
        "1.2." * 25_000, "2:" * 50_000, "DE89 " * 20_000, "-----BEGIN PRIVATE KEY-----" * 3_000,
        "password=" * 10_000, "eyJ" * 30_000 + ".", "://a:" * 20_000, "00 1 " * 20_000,
        "sk-" * 30_000, "aws secret" * 10_000, "(415) " * 15_000, "DE89" + "A" * 100_000,
    ],
)  # fmt: skip
def test_a_text_made_to_be_slow_is_not(hostile: str) -> None:
    started = time.process_time()
    find_private(hostile)
    assert time.process_time() - started < 2.0


def test_findings_are_listed_by_row_masked_and_counted() -> None:
    secret = SECRETS[7][1]
    records = [
        record("Which token?", f"{secret} and again {secret}", row=3),
        record("Whom do I ask?", "anna.keller@posteo.de or +49 170 1234567", row=4),
        record("And?", "Nothing.", row=5),
    ]
    found = scan(records)
    assert [item.to_json() for item in found.secrets] == [
        {"kind": "github_token", "source": "rows.jsonl", "line": 3, "masked": "gh…4a"}
    ]
    assert [(item.kind, item.ref.row, item.masked) for item in found.personal] == [
        ("email", 4, "an…de"),
        ("phone", 4, "+4…67"),
    ]
    assert (found.secret_rows, found.personal_rows) == (1, 1)
    assert secret not in str(found.to_json())


def test_a_flood_of_findings_is_counted_but_not_kept() -> None:
    chance = random.Random(0)
    rows = [
        record("q", f"a{chance.randrange(10**9)}.b@posteo.de", row=n)
        for n in range(MAX_FINDINGS + 10)
    ]
    found = scan(rows)
    assert len(found.personal) == MAX_FINDINGS
    assert found.personal_kinds == {"email": MAX_FINDINGS + 10}
