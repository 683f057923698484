"""The tokenizer of a directory: its four files, and our WordPiece.

    vocab.txt                  one token a line
    tokenizer.json             all that the library ``tokenizers`` needs, with the vocabulary
    tokenizer_config.json      the class, its arguments, names of the special tokens
    special_tokens_map.json    the same names; version 4 of transformers writes it

All four are written; version 5 writes the second and the third only, so either file of the
vocabulary is read. What ``text.wordpiece`` cannot do is refused by name.

A table may have more rows than the vocabulary has tokens. The rest get names in brackets that no
text can give: brackets are words of their own.
Source: transformers models/electra/tokenization_electra_fast.py, version 4.57, and
models/bert/tokenization_bert.py, version 5.24; the ``tokenizers`` library for tokenizer.json.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from electra_ref.batch import CLS, MASK, PAD, SEP, SPECIAL_TOKENS, UNKNOWN
from electra_ref.config.pretraining import SHORTEST_ROW
from electra_ref.config.settings import Value
from electra_ref.errors import UserError
from electra_ref.text.vocabulary import load_vocabulary
from electra_ref.text.wordpiece import MAX_CHARACTERS, PREFIX, WordPiece, find_special_tokens

VOCABULARY = "vocab.txt"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS_MAP = "special_tokens_map.json"
_ADDED_TOKENS = "added_tokens.json"
_NAMES = {
    "pad_token": PAD, "unk_token": UNKNOWN, "cls_token": CLS, "sep_token": SEP, "mask_token": MASK,
}  # fmt: skip
_GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")
_CLASSES = (
    "ElectraTokenizer", "ElectraTokenizerFast", "BertTokenizer", "BertTokenizerFast",
    *_GENERIC,
)  # fmt: skip
_ONLY: dict[str, Any] = {  # arguments of these classes, and the one value that is computed here
    "tokenize_chinese_chars": True,
    "do_basic_tokenize": True,
    "never_split": None,
    "wordpieces_prefix": PREFIX,
}

_ADDED = {
    "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True,
}  # fmt: skip


class Tokenizer(NamedTuple):
    """What the files of a directory describe."""

    wordpiece: WordPiece
    settings: Mapping[str, Value]  # of DataConfig, and vocab_size
    notes: list[str]  # what the user should know


def read_tokenizer(path: Path, rows: int) -> Tokenizer:
    """Return the tokenizer of the folder ``path``, whose table of words has ``rows`` rows.

    Raises UserError for missing or damaged files, for a vocabulary with more tokens than rows, and
    for what is not computed here, by name.
    """
    config, tokenizer = _read(path / TOKENIZER_CONFIG), _read(path / TOKENIZER)
    _check_config(path / TOKENIZER_CONFIG, config)
    _check_names(path / SPECIAL_TOKENS_MAP, _read(path / SPECIAL_TOKENS_MAP))
    if tokenizer:
        _check_tokenizer(path / TOKENIZER, tokenizer)
    vocabulary = _vocabulary(path, tokenizer)
    for file, added in _added_tokens(path, config, tokenizer):
        _check_added(file, added, vocabulary)
    lowercase, strips_accents = _case(path, config, tokenizer)
    if strips_accents and not lowercase:
        raise UserError(
            f"the tokenizer in {path} has strip_accents = true and lowercase = false; here accents "
            "are stripped of lower-cased text only"
        )
    settings: dict[str, Value] = {
        "lowercase": lowercase,
        "strip_accents": strips_accents or not lowercase,  # of cased text it says nothing
        "vocab_size": rows,
    }
    length = config.get("model_max_length")
    if type(length) is int and length >= SHORTEST_ROW:
        settings["max_length"] = length
    padded, notes = _padded(path, vocabulary, rows)
    wordpiece = WordPiece(padded, lowercase=lowercase, strip_accents=strips_accents)
    return Tokenizer(wordpiece, settings, notes)


def tokenizer_files(
    vocabulary: Sequence[str], *, lowercase: bool, strip_accents: bool, longest_row: int
) -> dict[str, str]:
    """Return the text of the four files by their names.

    ``longest_row`` is the number of tokens of the rows that the model was trained on. Raises
    UserError if the vocabulary lacks a special token.
    """
    ids = dict(zip(SPECIAL_TOKENS, find_special_tokens(vocabulary), strict=True))
    config = {
        "added_tokens_decoder": {str(i): {"content": token, **_ADDED} for token, i in _by_id(ids)},
        "clean_up_tokenization_spaces": True,
        **_NAMES,
        "do_lower_case": lowercase,
        "model_max_length": longest_row,
        "strip_accents": strip_accents,
        "tokenize_chinese_chars": True,
        "tokenizer_class": "ElectraTokenizer",
    }
    return {
        VOCABULARY: "".join(f"{token}\n" for token in vocabulary),
        TOKENIZER: _json(_tokenizer(vocabulary, ids, lowercase, strip_accents)),
        TOKENIZER_CONFIG: _json(config),
        SPECIAL_TOKENS_MAP: _json(_NAMES),
    }


# Writing


def _tokenizer(
    vocabulary: Sequence[str], ids: Mapping[str, int], lowercase: bool, strip_accents: bool
) -> dict[str, Any]:
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": token, **_ADDED} for token, i in _by_id(ids)],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": strip_accents,
            "lowercase": lowercase,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            **_row_templates(),
            "special_tokens": {
                token: {"id": token, "ids": [ids[token]], "tokens": [token]} for token in (CLS, SEP)
            },
        },
        "decoder": {"type": "WordPiece", "prefix": PREFIX, "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": UNKNOWN,
            "continuing_subword_prefix": PREFIX,
            "max_input_chars_per_word": MAX_CHARACTERS,
            "vocab": {token: i for i, token in enumerate(vocabulary)},
        },
    }


def _row_templates() -> dict[str, list[dict[str, Any]]]:
    """Return how a row of one text and one of two are put together."""
    first = [_special(CLS, 0), _sequence("A", 0), _special(SEP, 0)]
    return {"single": first, "pair": [*first, _sequence("B", 1), _special(SEP, 1)]}


def _special(token: str, segment: int) -> dict[str, Any]:
    return {"SpecialToken": {"id": token, "type_id": segment}}


def _sequence(name: str, segment: int) -> dict[str, Any]:
    return {"Sequence": {"id": name, "type_id": segment}}


def _by_id(ids: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(ids.items(), key=lambda item: item[1])


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


# Reading


def _read(file: Path) -> dict[str, Any]:
    """Return the object in ``file``; {} if there is no file. Raises UserError."""
    try:
        found = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{file} holds no object of JSON")
    return found


def _check_config(file: Path, config: Mapping[str, Any]) -> None:
    kind = config.get("tokenizer_class") or _CLASSES[0]
    if kind not in _CLASSES:
        raise UserError(
            f"{file} names the tokenizer {kind!r}; only WordPiece is read: {', '.join(_CLASSES)}"
        )
    for key, only in _ONLY.items():
        value = config.get(key, only)
        if value != only and (value or only):  # an empty list is no word that is never split
            raise UserError(f"{file} has {key} = {value!r}; only {only!r} is computed here")
    _check_names(file, config)


def _check_names(file: Path, names: Mapping[str, Any]) -> None:
    for key, token in _NAMES.items():
        found = names.get(key, token)
        found = found.get("content") if isinstance(found, dict) else found
        if found != token:
            raise UserError(f"{file} has {key} = {found!r}; only {token!r} is known here")


def _check_tokenizer(file: Path, tokenizer: Mapping[str, Any]) -> None:
    """Raise UserError if ``tokenizer`` cuts text otherwise than our WordPiece."""
    parts = {key: _part(tokenizer, key) for key in ("model", "normalizer", "pre_tokenizer")}
    parts["model"] = {"type": "WordPiece", **parts["model"]}  # the first versions wrote no type
    for key, name, wanted in (
        ("model", "type", "WordPiece"),
        ("model", "unk_token", UNKNOWN),
        ("model", "continuing_subword_prefix", PREFIX),
        ("model", "max_input_chars_per_word", MAX_CHARACTERS),
        ("normalizer", "type", "BertNormalizer"),
        ("normalizer", "clean_text", True),
        ("normalizer", "handle_chinese_chars", True),
        ("pre_tokenizer", "type", "BertPreTokenizer"),
    ):
        if (found := parts[key].get(name)) != wanted:
            raise UserError(
                f"the {key} in {file} has {name} = {found!r}; only {wanted!r} is computed here"
            )
    _check_special_tokens(file, _part(tokenizer, "post_processor"))


def _check_special_tokens(file: Path, added: Mapping[str, Any]) -> None:
    """Raise UserError unless a row gets [CLS] and [SEP], as ours do."""
    kind, expected = added.get("type"), _row_templates()
    if kind == "TemplateProcessing" and all(added.get(key) == expected[key] for key in expected):
        return
    tokens = [
        pair[0] for key in ("cls", "sep") if isinstance(pair := added.get(key), list) and pair
    ]
    if kind != "BertProcessing" or tokens != [CLS, SEP]:
        raise UserError(
            f"the post_processor in {file} puts other special tokens around texts than "
            f"{CLS} A {SEP} B {SEP}, and only these are computed here"
        )


def _part(tokenizer: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = tokenizer.get(key)
    return part if isinstance(part, dict) else {}


def _vocabulary(path: Path, tokenizer: Mapping[str, Any]) -> list[str]:
    """Return the tokens in order of their ids. Raises UserError."""
    listed = load_vocabulary(path / VOCABULARY) if (path / VOCABULARY).exists() else None
    if not tokenizer:
        if listed is None:
            raise UserError(f"{path} has neither {VOCABULARY} nor {TOKENIZER}: it needs one")
        return listed
    ids = _part(tokenizer, "model").get("vocab")
    if not isinstance(ids, dict) or sorted(ids.values(), key=_as_number) != [*range(len(ids))]:
        raise UserError(f"the vocabulary in {path / TOKENIZER} does not number its tokens from 0")
    vocabulary = sorted(ids, key=ids.__getitem__)
    if listed is not None and listed != vocabulary:
        pairs = zip(listed, vocabulary, strict=False)
        differing = (i for i, (one, other) in enumerate(pairs) if one != other)
        first = next(differing, min(len(listed), len(vocabulary)))
        raise UserError(
            f"{VOCABULARY} and {TOKENIZER} in {path} have different vocabularies, from id {first} "
            "on: remove the wrong one"
        )
    try:
        find_special_tokens(vocabulary)
    except UserError as error:
        raise UserError(f"{path / TOKENIZER}: {error}") from error
    for token in vocabulary:
        if not _fits_a_line(token):
            raise UserError(f"{path / TOKENIZER} has the token {token!r}, which is no line of text")
    return vocabulary


def _as_number(value: Any) -> int:
    return value if type(value) is int else -1


def _fits_a_line(token: str) -> bool:
    is_text = not any("\ud800" <= character <= "\udfff" for character in token)  # in UTF-8
    return is_text and token != "" and "\n" not in token and not token.endswith("\r")


def _added_tokens(
    path: Path, config: Mapping[str, Any], tokenizer: Mapping[str, Any]
) -> Iterator[tuple[Path, list[tuple[str, bool]]]]:
    """Yield what each file adds to the vocabulary: tokens, and whether they are special."""

    def pairs(found: Any) -> list[tuple[str, bool]]:
        return [
            (str(item.get("content")), bool(item.get("special")))
            for item in found
            if isinstance(item, dict)
        ]

    listed, decoder = tokenizer.get("added_tokens"), config.get("added_tokens_decoder")
    yield path / TOKENIZER, pairs(listed) if isinstance(listed, list) else []
    yield path / TOKENIZER_CONFIG, pairs(decoder.values()) if isinstance(decoder, dict) else []
    yield path / _ADDED_TOKENS, [(token, False) for token in _read(path / _ADDED_TOKENS)]


def _check_added(file: Path, added: list[tuple[str, bool]], vocabulary: Sequence[str]) -> None:
    """Raise UserError for a token that is found in text before the text is cut into words.

    A special token in a text is text here: see ``text.wordpiece``.
    """
    known = set(vocabulary)
    for token, is_special in added:
        if token not in SPECIAL_TOKENS and not (is_special and token in known):
            raise UserError(
                f"{file} adds the token {token!r} to the vocabulary, which WordPiece here would "
                "not find in a text"
            )


def _case(path: Path, config: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> tuple[bool, bool]:
    """Return whether text is lower-cased, and whether its accents are stripped.

    transformers asks ``tokenizer_config.json`` and takes a default where it does not say, whatever
    ``tokenizer.json`` says; only a class that is no model's own reads the latter. Where the two
    differ, nobody knows what the model was trained on. Raises UserError.
    """
    normalizer = _part(tokenizer, "normalizer")
    named = _options(path / TOKENIZER_CONFIG, config, "do_lower_case")
    if not normalizer:
        return named
    own = _options(path / TOKENIZER, normalizer, "lowercase")
    if config.get("tokenizer_class") not in _GENERIC and named != own:
        keys = "(do_lower_case, strip_accents)"
        raise UserError(
            f"{TOKENIZER_CONFIG} in {path} has {keys} = {named}, which are (True, the same as the "
            f"first) if they are not there, and the normalizer in {TOKENIZER} has {own}: make them "
            "equal"
        )
    return own


def _options(file: Path, found: Mapping[str, Any], name: str) -> tuple[bool, bool]:
    lowercase = found.get(name, True)
    strip_accents = found.get("strip_accents")
    strip_accents = lowercase if strip_accents is None else strip_accents
    if type(lowercase) is not bool or type(strip_accents) is not bool:
        raise UserError(f"{file} has {name} or strip_accents that is neither true nor false")
    return lowercase, strip_accents


def _padded(path: Path, vocabulary: list[str], rows: int) -> tuple[list[str], list[str]]:
    """Return one token for each of ``rows``, and notes. Raises UserError if there are more."""
    missing = rows - len(vocabulary)
    if missing < 0:
        raise UserError(
            f"the vocabulary in {path} has {len(vocabulary)} tokens, and the model has rows for "
            f"{rows} only"
        )
    if missing == 0:
        return vocabulary, []
    names = list(_unused_names(set(vocabulary).__contains__, missing))
    note = (
        f"the table in {path} has {rows:,} rows, and its vocabulary {len(vocabulary):,} tokens: "
        f"the other {missing:,} are called {names[0]} and so on"
    )
    return [*vocabulary, *names], [note]


def _unused_names(is_taken: Callable[[str], bool], count: int) -> Iterator[str]:
    number = 0
    while count:
        name = f"[no token {number}]"
        number += 1
        if not is_taken(name):
            count -= 1
            yield name
