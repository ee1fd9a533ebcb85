"""A license is named by its own words, and what is not recognised stays unknown."""

import pytest

from llamaforge.catalog.licenses import license_name, license_names


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("            Apache License\n        Version 2.0, January 2004", "Apache-2.0"),
        ("MIT License\n\nCopyright (c) Microsoft", "MIT"),
        ("Copyright 2024\n\nPermission is hereby granted, free of charge, to any", "MIT"),
        ("META LLAMA 3 COMMUNITY LICENSE AGREEMENT\nMeta Llama 3 Version Release", "llama3"),
        ("LLAMA 3.1 COMMUNITY LICENSE AGREEMENT\n", "llama3.1"),
        ("LLAMA 3.2 COMMUNITY LICENSE AGREEMENT\n", "llama3.2"),
        ("LLAMA 3.3 COMMUNITY LICENSE AGREEMENT\n", "llama3.3"),
        ("LLAMA 2 COMMUNITY LICENSE AGREEMENT\n", "llama2"),
        ("Gemma Terms of Use\n\nLast modified", "gemma"),
        ("Qwen RESEARCH LICENSE AGREEMENT\n", "qwen-research"),
        ("Qwen LICENSE AGREEMENT\n", "qwen"),
        ("Tongyi Qianwen LICENSE AGREEMENT\n", "tongyi-qianwen"),
        ("DEEPSEEK LICENSE AGREEMENT\nVersion 1.0", "deepseek"),
        ("apache-2.0", "apache-2.0"),
        ("All rights reserved by somebody, and a long text that nobody has ever seen.", "unknown"),
        ("", "unknown"),
    ],
)  # fmt: skip
def test_of_known_texts(text: str, name: str) -> None:
    assert license_name(text) == name


def test_the_license_named_first_counts() -> None:
    text = "LLAMA 3.1 COMMUNITY LICENSE AGREEMENT ... notice under the Apache License, Version 2.0"
    assert license_name(text) == "llama3.1"


def test_layers_outrank_the_header_and_each_name_comes_once() -> None:
    assert license_names(["MIT License", "MIT License", "Gemma Terms of Use"], "x") == (
        "MIT",
        "gemma",
    )
    assert license_names([], "apache-2.0") == ("apache-2.0",)
    assert license_names([" "], None) == ()
