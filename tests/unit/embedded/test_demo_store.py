"""The shipped store: true digests, complete layers, a small and complete model file."""

import hashlib
import json
from pathlib import Path
from typing import Any

import gguf
import jinja2
import pytest

import llamaforge.embedded

STORE = Path(llamaforge.embedded.__file__).parent / "store"
MANIFEST = STORE / "manifests/registry.ollama.ai/library/llamaforge-demo/latest"
IMAGE = "application/vnd.ollama.image."


def entries() -> list[dict[str, Any]]:
    manifest = json.loads(MANIFEST.read_bytes())
    return [manifest["config"], *manifest["layers"]]


def blob(digest: str) -> Path:
    return STORE / "blobs" / digest.replace(":", "-")


def layer(kind: str) -> bytes:
    (found,) = (e["digest"] for e in entries() if e["mediaType"] == f"{IMAGE}{kind}")
    return blob(found).read_bytes()


@pytest.fixture(scope="module")
def reader() -> gguf.GGUFReader:
    (found,) = (e["digest"] for e in entries() if e["mediaType"] == f"{IMAGE}model")
    return gguf.GGUFReader(blob(found))


def test_manifest_has_ollamas_form() -> None:
    manifest = json.loads(MANIFEST.read_bytes())
    assert manifest["schemaVersion"] == 2
    assert manifest["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
    assert manifest["config"]["mediaType"] == "application/vnd.docker.container.image.v1+json"
    kinds = {entry["mediaType"].removeprefix(IMAGE) for entry in manifest["layers"]}
    assert kinds == {"model", "template", "license", "params"}


def test_every_blob_is_what_the_manifest_says() -> None:
    for entry in entries():
        content = blob(entry["digest"]).read_bytes()
        assert entry["digest"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
        assert entry["size"] == len(content)


def test_there_is_no_other_blob_and_the_store_is_small() -> None:
    names = {path.name for path in (STORE / "blobs").iterdir()}
    assert names == {entry["digest"].replace(":", "-") for entry in entries()}
    assert sum(path.stat().st_size for path in STORE.rglob("*") if path.is_file()) <= 8_000_000


def test_config_describes_the_model() -> None:
    manifest = json.loads(MANIFEST.read_bytes())
    config = json.loads(blob(manifest["config"]["digest"]).read_bytes())
    assert config["model_format"] == "gguf"
    assert config["model_family"] == "llama"
    assert config["file_type"] == "Q4_K_M"
    assert config["rootfs"]["diff_ids"] == [entry["digest"] for entry in manifest["layers"]]


def test_params_and_license() -> None:
    assert json.loads(layer("params")) == {"stop": ["<|im_end|>"], "temperature": 0.2}
    assert b"MIT License" in layer("license")


def test_jinja_template_writes_chatml(reader: gguf.GGUFReader) -> None:
    field = reader.get_field("tokenizer.chat_template")
    assert field is not None
    template = jinja2.Template(field.contents(), trim_blocks=True, lstrip_blocks=True)
    roles = ("system", "user", "assistant", "user")
    messages = [{"role": role, "content": f"{role} says"} for role in roles]
    turns = "".join(f"<|im_start|>{role}\n{role} says<|im_end|>\n" for role in roles)
    assert template.render(messages=messages) == turns
    asked = template.render(messages=messages, add_generation_prompt=True)
    assert asked == turns + "<|im_start|>assistant\n"


def test_go_template_writes_the_same_chatml() -> None:
    expected = (
        "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n"
        "{{ end }}<|im_start|>assistant\n"
    )
    assert layer("template").decode() == expected


def test_model_file_is_complete(reader: gguf.GGUFReader) -> None:
    def value(key: str) -> Any:
        field = reader.get_field(key)
        assert field is not None, key
        return field.contents()

    assert value("general.architecture") == "llama"
    assert value("general.file_type") == gguf.LlamaFileType.MOSTLY_Q4_K_M
    assert value("general.quantization_version") == gguf.GGML_QUANT_VERSION
    assert value("general.license") == "mit"
    assert value("llama.attention.head_count_kv") < value("llama.attention.head_count")
    assert value("tokenizer.ggml.model") == "gpt2"
    assert value("tokenizer.ggml.pre") == "qwen2"
    assert value("tokenizer.ggml.add_bos_token") is False
    tokens, kinds = value("tokenizer.ggml.tokens"), value("tokenizer.ggml.token_type")
    assert len(tokens) == len(kinds) == value("llama.vocab_size")
    control = {t for t, kind in zip(tokens, kinds, strict=True) if kind == gguf.TokenType.CONTROL}
    assert control == {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}
    assert tokens[value("tokenizer.ggml.eos_token_id")] == "<|im_end|>"
    assert tokens[value("tokenizer.ggml.padding_token_id")] == "<|endoftext|>"
    assert value("tokenizer.ggml.merges")


def test_embeddings_are_tied(reader: gguf.GGUFReader) -> None:
    names = {tensor.name for tensor in reader.tensors}
    assert "token_embd.weight" in names
    assert "output.weight" not in names
