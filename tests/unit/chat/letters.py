"""A tokenizer whose tokens are characters, for tests of masks."""

from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers

SPECIAL = ("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|a|>", "<|eot|>", "[INST]", "[/INST]")
END = ("</s>", "<|im_end|>", "<|eot|>")
_CHARACTERS = "".join(map(chr, range(32, 127))) + "\n\té"


class Letters:
    """One token a character, control tokens for `SPECIAL`; BOS is `<s>`."""

    def __init__(self, *, add_bos: bool = False) -> None:
        vocabulary = {text: number for number, text in enumerate([*SPECIAL, *_CHARACTERS])}
        vocabulary.setdefault("unknown", len(vocabulary))
        self.special_ids = {text: vocabulary[text] for text in SPECIAL}
        self.end_ids = frozenset(vocabulary[text] for text in END)
        self.bos_id: int | None = vocabulary["<s>"]
        self.eos_id: int | None = vocabulary["</s>"]
        self._add_bos = add_bos
        self._texts = {number: text for text, number in vocabulary.items()}
        self._tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="unknown"))
        self._tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        self._tokenizer.add_special_tokens([AddedToken(text) for text in SPECIAL])

    def encode_with_offsets(
        self, text: str, *, parse_special: bool = True
    ) -> tuple[list[int], list[tuple[int, int]]]:
        self._tokenizer.encode_special_tokens = not parse_special
        found = self._tokenizer.encode(text, add_special_tokens=False)
        return found.ids, found.offsets

    def with_bos(self, ids: list[int]) -> list[int]:
        wanted = self._add_bos and ids[:1] != [self.bos_id]
        return [self.bos_id, *ids] if wanted and self.bos_id is not None else ids

    def text_of(self, number: int | None) -> str:
        return "" if number is None else self._texts[number]

    def texts(self, ids: list[int]) -> str:
        return "".join(self._texts[number] for number in ids)
