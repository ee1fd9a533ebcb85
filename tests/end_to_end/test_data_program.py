"""`llamaforge data`: rows looked through, previewed and converted by the real program."""

import json
from pathlib import Path

import pytest

from llamaforge import paths
from tests.end_to_end.program import Program
from tests.end_to_end.training import BRIEF, with_settings

pytestmark = pytest.mark.slow

MODEL = ["--model", "llamaforge-demo", "--store", str(paths.embedded_store())]
KEY = "ghp_" + "aB3dE5fG7hI9jK1lM2nO4pQ6rS8tU0vWxYz"


def written(path: Path, rows: list[object]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def pair(number: int, answer: str = "yes") -> dict[str, str]:
    return {"prompt": f"Is {number} a number that anybody needs?", "completion": answer}


def test_good_rows_pass_and_are_measured_for_the_model(program: Program, tmp_path: Path) -> None:
    data = written(tmp_path / "rows.jsonl", [pair(number) for number in range(40)])
    found = program.json("data", "check", data, *MODEL)
    assert found["can_train"] is True
    assert found["rows"] == {
        "read": 40, "accepted": 40, "repaired": 0, "rejected": 0, "left_out": 0, "repeated": 0,
    }  # fmt: skip
    lengths = found["analysis"]["lengths"]
    assert 0 < lengths["tokens"]["p50"] <= lengths["tokens"]["max"]
    assert found["model"]["template"] == "file"
    assert set(found["tokens"]) == {"p50", "p95", "p99", "max"}
    assert found["suggested_max_length"] >= found["tokens"]["max"]
    assert (found["truncated_answers"], found["snapshot"]) == (0, None)
    kept = program.json("data", "check", data, *MODEL, "--keep")
    [listed] = program.json("data", "list")
    assert listed["id"] == kept["snapshot"]
    assert "A run could be trained" in program.run("data", "check", data, *MODEL)


def test_everything_that_is_wrong_is_told_at_once(program: Program, tmp_path: Path) -> None:
    rows = [pair(1), pair(1), pair(2, f"the key is {KEY}"), {"prompt": "no answer"}, "no object"]
    data = written(tmp_path / "rows.jsonl", [*rows, {"prompt": " x\n", "completion": "y "}])
    found = program.json("data", "check", data, code=3)
    assert found["can_train"] is False
    assert found["rows"] == {
        "read": 6, "accepted": 3, "repaired": 1, "rejected": 2, "left_out": 0, "repeated": 0,
    }  # fmt: skip
    assert [row["line"] for row in found["rejected"]] == [4, 5]
    assert [(row["line"], row["rule"]) for row in found["repaired"]] == [(6, "outer_white_space")]
    assert found["duplicates"] == {"exact": 1, "near": 0}
    assert [(item["line"], item["kind"]) for item in found["secrets"]] == [(3, "github_token")]
    assert found["tokens"] is None
    assert {item["code"] for item in found["problems"] if item["level"] == "stop"} == {
        "secrets", "rejected_rows"
    }  # fmt: skip
    text = program.run("data", "check", data, code=3)
    assert KEY not in text
    assert KEY not in json.dumps(found)
    allowed = program.json("data", "check", data, "--allow-secrets", "--max-rejected", "0.5")
    assert allowed["can_train"] is True


def test_columns_are_mapped_by_hand(program: Program, tmp_path: Path) -> None:
    data = tmp_path / "rows.csv"
    data.write_text("frage;antwort\nWas ist 1?;eins\nWas ist 2?;zwei\n")
    refused = program.json("data", "check", str(data), code=2)
    assert refused["error"]["code"] == "unknown_format"
    assert "--map" in refused["error"]["hint"]
    found = program.json("data", "check", str(data), "--map", "prompt=frage,completion=antwort")
    assert found["rows"]["accepted"] == 2
    words = ["data", "preview", str(data), *MODEL, "--row", "3"]  # its line: the first has names
    shown = program.json(*words, "--map", "prompt=frage,completion=antwort")
    assert "Was ist 2?" in shown["text"]


def test_a_run_refuses_secrets_and_takes_part_of_a_folder(program: Program, tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    written(folder / "a.jsonl", [pair(number) for number in range(60)])
    written(folder / "b.jsonl", [pair(99, f"password is {KEY}")])
    words = ["train", *MODEL, "--name", "r", "--yes", "--set", "max_steps=1"]
    events = program.events(*words, "--data", str(folder), code=3)
    failed = next(event for event in events if event["type"] == "failed")
    assert failed["code"] == "secrets"
    assert KEY not in json.dumps(events)
    words[words.index("r")] = "s"
    words = with_settings(words, BRIEF)
    program.run(*words, "--data", f"{folder / 'a.jsonl'}@0.5")
    [kept] = program.json("data", "list")
    counts = kept["counts"]
    assert 10 < counts["train"] + counts["validation"] < 50


def test_a_row_is_shown_as_the_model_sees_it(program: Program, tmp_path: Path) -> None:
    data = written(tmp_path / "rows.jsonl", [pair(1), pair(2, "\x1b[2Jno")])
    shown = program.json("data", "preview", data, *MODEL, "--row", "2")
    trained = [token for token in shown["tokens"] if token["trained"]]
    assert trained
    text = program.run("data", "preview", data, *MODEL, "--row", "1", "2")
    assert "^ trained" in text
    assert "\x1b" not in text
    missing = program.json("data", "preview", data, *MODEL, "--row", "9", code=4)
    assert missing["error"]["code"] == "no_row"


def test_rows_are_written_in_another_form(program: Program, tmp_path: Path) -> None:
    data = written(tmp_path / "rows.jsonl", [pair(number) for number in range(3)])
    out = tmp_path / "out.jsonl"
    program.run("data", "convert", data, "--to", "sharegpt", "--out", str(out))
    assert [json.loads(line)["conversations"][0]["value"] for line in out.open()] == [
        pair(number)["prompt"] for number in range(3)
    ]


TOOLS_IN_TAGS = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for call in m.tool_calls or [] %}<call>{{ call.function | tojson }}</call>{% endfor %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_rows_that_call_tools_need_a_template_that_shows_them(
    program: Program, tmp_path: Path
) -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    rows: list[object] = []
    for number in range(20):
        arguments = json.dumps({"day": number})
        call = {"type": "function", "function": {"name": "weather", "arguments": arguments}}
        words = "I look it up." if number in {4, 7} else None
        messages = [
            {"role": "user", "content": f"Rain on day {number}?"},
            {"role": "assistant", "content": words, "tool_calls": [call]},
        ]
        rows.append({"messages": messages, "tools": [tool]})
    data = written(tmp_path / "tools.jsonl", rows)
    refused = program.json("data", "check", data, *MODEL, code=3)
    assert "does not show the tools" in json.dumps(refused["problems"])
    template = ["--chat-template", TOOLS_IN_TAGS]
    found = program.json("data", "check", data, *MODEL, *template)
    assert found["can_train"] is True
    assert found["model"]["unlearned"] == 0
    shown = program.json("data", "preview", data, *MODEL, *template, "--row", "2")
    trained = "".join(token["text"] for token in shown["tokens"] if token["trained"])
    assert trained == '<call>{"name": "weather", "arguments": {"day": 1}}</call><|im_end|>'

    dropped = TOOLS_IN_TAGS.replace("{{ m.content }}", "{{ m.content if not m.tool_calls }}")
    template = ["--chat-template", dropped]
    found = program.json("data", "check", data, *MODEL, *template)
    assert found["can_train"] is True
    assert found["model"]["unlearned"] == 2
    told = next(item for item in found["problems"] if item["code"] == "unlearned_words")
    assert told["message"].startswith("In 2 of 20 rows the chat template leaves out or changes")
    assert "row 5, “I look it up.”" in told["message"]
    shown = program.json("data", "preview", data, *MODEL, *template, "--row", "5")
    assert [item["code"] for item in shown["problems"]] == ["words_left_out"]


def test_a_text_is_trained_as_it_stands_where_asked(program: Program, tmp_path: Path) -> None:
    data = tmp_path / "notes.md"
    data.write_text("".join(f"# Day {n}\n\nIt rained {n} times.\n\n" for n in range(1_000)))
    refused = program.json("data", "check", str(data), *MODEL, code=2)
    assert "--map text=text" in refused["error"]["hint"]
    mapped = [str(data), "--map", "text=text"]
    found = program.json("data", "check", *mapped, *MODEL)
    assert found["can_train"] is True
    assert found["truncated_answers"] == 0
    converted = ["data", "convert", *mapped, "--to", "chat", "--out", str(tmp_path / "rows.jsonl")]
    assert program.json(*converted, code=3)["error"]["code"] == "nothing_to_write"
