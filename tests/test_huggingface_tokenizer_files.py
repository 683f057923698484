"""The tokenizer of a directory: what is written is read, and what differs is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from electra_ref.batch import SPECIAL_TOKENS
from electra_ref.errors import UserError
from electra_ref.training.huggingface.tokenizer_files import read_tokenizer, tokenizer_files
from tests.huggingface_folders import vocabulary_of

VOCABULARY = [*vocabulary_of(20)[5:], *reversed(SPECIAL_TOKENS), "é", "\u2028x", "##e"]
ROWS = len(VOCABULARY)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with the four files."""
    write(tmp_path)
    return tmp_path


def write(folder: Path, lowercase: bool = True, strip_accents: bool = True) -> None:
    texts = tokenizer_files(
        VOCABULARY, lowercase=lowercase, strip_accents=strip_accents, longest_row=9
    )
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    found = json.loads(path.read_text(encoding="utf-8"))
    change(found)
    path.write_text(json.dumps(found), encoding="utf-8")


def refusal(folder: Path, rows: int = ROWS) -> str:
    with pytest.raises(UserError) as refused:
        read_tokenizer(folder, rows)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("lowercase", "strip_accents"), [(True, True), (True, False), (False, False)]
)
@pytest.mark.parametrize(
    "removed",
    [(), ("vocab.txt", "special_tokens_map.json"), ("tokenizer.json",)],
    ids=["all files", "as version 5 writes", "as old versions wrote"],
)
def test_what_is_written_is_read(
    lowercase: bool, strip_accents: bool, removed: tuple[str, ...], tmp_path: Path
) -> None:
    write(tmp_path, lowercase, strip_accents)
    for name in removed:
        (tmp_path / name).unlink()
    found = read_tokenizer(tmp_path, ROWS)
    assert found.wordpiece.vocab == tuple(VOCABULARY)
    assert found.notes == []
    assert found.settings["lowercase"] == lowercase
    assert (found.settings["strip_accents"] and lowercase) == strip_accents
    tokens = found.wordpiece.encode_with_offsets("É").tokens
    expected = {(True, True): "e", (True, False): "é", (False, False): "[UNK]"}
    assert tokens == [expected[lowercase, strip_accents]]


def test_a_vocabulary_alone_is_that_of_lower_cased_text(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name != "vocab.txt":
            path.unlink()
    found = read_tokenizer(folder, ROWS)
    assert found.settings == {"lowercase": True, "strip_accents": True, "vocab_size": ROWS}


def test_files_by_hand() -> None:
    texts = tokenizer_files(VOCABULARY, lowercase=False, strip_accents=False, longest_row=9)
    assert texts["vocab.txt"].split("\n") == [*VOCABULARY, ""]
    ids = {token: VOCABULARY.index(token) for token in SPECIAL_TOKENS}
    config = json.loads(texts["tokenizer_config.json"])
    assert config["do_lower_case"] is config["strip_accents"] is False
    assert (config["model_max_length"], config["tokenizer_class"]) == (9, "ElectraTokenizer")
    added = config["added_tokens_decoder"]
    assert {entry["content"]: int(i) for i, entry in added.items()} == ids
    tokenizer = json.loads(texts["tokenizer.json"])
    assert {entry["content"]: entry["id"] for entry in tokenizer["added_tokens"]} == ids
    assert tokenizer["normalizer"]["lowercase"] is tokenizer["normalizer"]["strip_accents"] is False
    assert tokenizer["model"]["vocab"] == {token: i for i, token in enumerate(VOCABULARY)}
    assert tokenizer["model"]["max_input_chars_per_word"] == 100
    segments = [
        next(iter(item.values()))["type_id"] for item in tokenizer["post_processor"]["pair"]
    ]
    assert segments == [0, 0, 0, 1, 1]


def test_rows_without_a_token_get_names_that_no_text_gives(folder: Path) -> None:
    edit(folder / "tokenizer.json", lambda found: found["model"]["vocab"].pop("##e"))
    words = VOCABULARY[:-1]
    words[0] = "[no token 1]"
    (folder / "vocab.txt").write_text("".join(f"{w}\n" for w in words), encoding="utf-8")
    (folder / "tokenizer.json").unlink()
    found = read_tokenizer(folder, ROWS + 2)
    assert len(found.wordpiece.vocab) == ROWS + 2
    names = found.wordpiece.vocab[ROWS - 1 :]
    assert names == ("[no token 0]", "[no token 2]", "[no token 3]")
    for name in names:
        assert not {*found.wordpiece.encode_with_offsets(name).tokens} & {*names}
    (note,) = found.notes
    assert f"has {ROWS + 2} rows, and its vocabulary {ROWS - 1} tokens: the other 3 are" in note
    assert found.settings["vocab_size"] == ROWS + 2


def test_more_tokens_than_rows(folder: Path) -> None:
    assert f"has {ROWS} tokens, and the model has rows for {ROWS - 1} only" in refusal(
        folder, ROWS - 1
    )


def test_two_vocabularies(folder: Path) -> None:
    words = [*VOCABULARY[:3], VOCABULARY[4], VOCABULARY[3], *VOCABULARY[5:]]
    (folder / "vocab.txt").write_text("".join(f"{w}\n" for w in words), encoding="utf-8")
    assert "have different vocabularies, from id 3 on" in refusal(folder)
    (folder / "vocab.txt").write_text("".join(f"{w}\n" for w in VOCABULARY[:-1]), encoding="utf-8")
    assert f"from id {ROWS - 1} on" in refusal(folder)


def test_no_vocabulary(folder: Path) -> None:
    (folder / "vocab.txt").unlink()
    (folder / "tokenizer.json").unlink()
    assert "has neither vocab.txt nor tokenizer.json" in refusal(folder)


@pytest.mark.parametrize("vocabulary", [None, [], {"a": 1}, {"a": 0, "b": 0}, {"a": "x"}])
def test_a_vocabulary_that_numbers_nothing(folder: Path, vocabulary: Any) -> None:
    (folder / "vocab.txt").unlink()
    edit(folder / "tokenizer.json", lambda found: found["model"].update(vocab=vocabulary))
    assert "does not number its tokens from 0" in refusal(folder)


@pytest.mark.parametrize("token", ["a\nb", "a\r", "", "\ud800", "[PAD]"])
def test_a_token_that_is_no_line_or_missing(folder: Path, token: str) -> None:
    (folder / "vocab.txt").unlink()

    def change(found: dict[str, Any]) -> None:
        vocabulary = found["model"]["vocab"]
        if token == "[PAD]":
            vocabulary["[pad]"] = vocabulary.pop(token)
        else:
            vocabulary[token] = vocabulary.pop("a")

    edit(folder / "tokenizer.json", change)
    message = refusal(folder)
    assert str(folder / "tokenizer.json") in message
    assert ("lacks the special token [PAD]" if token == "[PAD]" else repr(token)) in message


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("model", {"type": "BPE"}, "the model in {} has type = 'BPE'; only 'WordPiece'"),
        ("model", {"unk_token": "<unk>"}, "has unk_token = '<unk>'"),
        ("model", {"continuing_subword_prefix": "@@"}, "continuing_subword_prefix = '@@'"),
        ("model", {"max_input_chars_per_word": 200}, "max_input_chars_per_word = 200"),
        ("normalizer", {"type": "NFC"}, "the normalizer in {} has type = 'NFC'"),
        ("normalizer", {"handle_chinese_chars": False}, "has handle_chinese_chars = False"),
        ("normalizer", {"clean_text": False}, "has clean_text = False"),
        ("pre_tokenizer", {"type": "Whitespace"}, "the pre_tokenizer in {} has type"),
    ],
)
def test_a_tokenizer_of_another_kind(
    folder: Path, part: str, changes: dict[str, Any], message: str
) -> None:
    edit(folder / "tokenizer.json", lambda found: found[part].update(changes))
    assert message.format(folder / "tokenizer.json") in refusal(folder)


def test_a_tokenizer_of_an_early_version_names_no_type(folder: Path) -> None:
    before = read_tokenizer(folder, ROWS).wordpiece.vocab
    edit(folder / "tokenizer.json", lambda found: found["model"].pop("type"))
    assert read_tokenizer(folder, ROWS).wordpiece.vocab == before


def test_a_tokenizer_without_a_normalizer(folder: Path) -> None:
    edit(folder / "tokenizer.json", lambda found: found.update(normalizer=None))
    assert "the normalizer" in refusal(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer_class": "BertJapaneseTokenizer"}, "the tokenizer 'BertJapaneseTokenizer'"),
        ({"tokenize_chinese_chars": False}, "has tokenize_chinese_chars = False"),
        ({"do_basic_tokenize": False}, "has do_basic_tokenize = False"),
        ({"never_split": ["x"]}, "has never_split = ['x']"),
        ({"wordpieces_prefix": "@@"}, "has wordpieces_prefix = '@@'"),
        ({"mask_token": "<mask>"}, "has mask_token = '<mask>'; only '[MASK]' is known here"),
        ({"pad_token": {"content": "<pad>"}}, "has pad_token = '<pad>'"),
        ({"do_lower_case": "yes"}, "neither true nor false"),
        ({"do_lower_case": False}, "has (do_lower_case, strip_accents) = (False, True)"),
        ({"strip_accents": False}, "= (True, False), which are"),
        ({"added_tokens_decoder": {"99": {"content": "<user>"}}}, "adds the token '<user>'"),
    ],
)
def test_arguments_that_change_the_ids(folder: Path, changes: dict[str, Any], message: str) -> None:
    edit(folder / "tokenizer_config.json", lambda found: found.update(changes))
    found = refusal(folder)
    assert message in found
    assert "tokenizer_config.json" in found


@pytest.mark.parametrize(
    "changes",
    [
        {"tokenizer_class": "BertTokenizerFast"},
        {"never_split": []},
        {"never_split": None},
        {"mask_token": {"content": "[MASK]", "lstrip": False}},
        {"strip_accents": None},
        {"added_tokens_decoder": {"0": {"content": "a", "special": True}}},
    ],
)
def test_arguments_that_change_nothing(folder: Path, changes: dict[str, Any]) -> None:
    edit(folder / "tokenizer_config.json", lambda found: found.update(changes))
    assert read_tokenizer(folder, ROWS).wordpiece.vocab == tuple(VOCABULARY)


def test_a_class_of_no_model_reads_the_normalizer(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", lambda found: found.update(
        tokenizer_class="PreTrainedTokenizerFast"))  # fmt: skip
    edit(folder / "tokenizer.json", lambda found: found["normalizer"].update(lowercase=False))
    assert "strip_accents = true and lowercase = false" in refusal(folder)
    edit(folder / "tokenizer.json", lambda found: found["normalizer"].update(strip_accents=None))
    assert read_tokenizer(folder, ROWS).settings["lowercase"] is False


def test_tokens_that_were_added(folder: Path) -> None:
    (folder / "added_tokens.json").write_text(json.dumps({"<user>": ROWS}))
    message = refusal(folder)
    assert str(folder / "added_tokens.json") in message
    (folder / "added_tokens.json").write_text(json.dumps(dict.fromkeys(SPECIAL_TOKENS, 1)))
    read_tokenizer(folder, ROWS)
    edit(folder / "tokenizer.json", lambda found: found["added_tokens"].append(
        {"id": 1, "content": "a", "special": False}))  # fmt: skip
    assert f"{folder / 'tokenizer.json'} adds the token 'a'" in refusal(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize(("content", "message"), [(b"{", "is not JSON"), (b"3", "no object")])
def test_damaged_files(folder: Path, name: str, content: bytes, message: str) -> None:
    (folder / name).write_bytes(content)
    found = refusal(folder)
    assert message in found
    assert str(folder / name) in found


BERT: dict[str, Any] = {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}


@pytest.mark.parametrize(
    ("post_processor", "is_ours"),
    [
        (BERT, True),
        ({**BERT, "cls": ["<s>", 2]}, False),
        ({**BERT, "sep": None}, False),
        ({}, False),
    ],
)
def test_special_tokens_around_a_text(
    post_processor: dict[str, Any], is_ours: bool, folder: Path
) -> None:
    edit(folder / "tokenizer.json", lambda found: found.update(post_processor=post_processor))
    if is_ours:
        assert read_tokenizer(folder, ROWS).notes == []
    else:
        assert "puts other special tokens around texts than [CLS] A [SEP]" in refusal(folder)


@pytest.mark.parametrize("rows", ["single", "pair"])
def test_another_template_of_rows(rows: str, folder: Path) -> None:
    edit(folder / "tokenizer.json", lambda found: found["post_processor"][rows].reverse())
    assert "puts other special tokens around texts than [CLS] A [SEP]" in refusal(folder)
