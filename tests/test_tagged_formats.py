"""The formats of tagged text, quirk by quirk: what is read, passed over and refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from electra_ref.errors import UserError
from electra_ref.training.finetuning.formats.sentences import (
    Columns,
    sentence_of,
    sentence_of_text,
)
from electra_ref.training.finetuning.tally import Tally
from tests.tagged_text import GUESSED, read, words_and_tags

CONLL = "-DOCSTART- -X- O O\n\nEU NNP I-NP I-ORG\nrejects VBZ I-VP O\n\n\nPeter NNP I-NP I-PER"


def test_conll_has_the_word_first_and_the_tag_last() -> None:
    tally = Tally()
    sentences = read(CONLL, "f.conll", tally=tally)
    assert words_and_tags(sentences) == [("EU rejects", "I-ORG O"), ("Peter", "I-PER")]
    assert [one.place for one in sentences] == ["f.conll, line 3", "f.conll, line 7"]
    assert tally.counts() == {"lines with -DOCSTART-, passed over": 1}
    assert next(tally.lines()).endswith("(the first: f.conll, line 1)")


@pytest.mark.parametrize(
    ("word", "tag", "expected"),
    [(1, 2, ("EU rejects", "NNP VBZ")), (2, -2, ("NNP VBZ", "I-NP I-VP")), (-4, 4, None)],
)
def test_conll_columns_are_settings(word: int, tag: int, expected: Any) -> None:
    columns = Columns(word, tag, "", "")
    first = words_and_tags(read(CONLL, "f.conll", columns=columns))[0]
    assert first == (expected or ("EU rejects", "I-ORG O"))


def test_conll_takes_any_white_space_and_lines_of_spaces() -> None:
    assert words_and_tags(read("a \t X\n  \nb\tY \n", "f.iob")) == [("a", "X"), ("b", "Y")]
    (one,) = read("1\u00a0000 X\n", "f.iob")
    assert one.words == ("1\u00a0000",)  # a space that breaks no line is part of a number


def test_conll_comments_stand_before_a_sentence_and_have_other_columns() -> None:
    tally = Tally()
    text = "# id = 1\na O\n# O\nb O\n\n# O\nc O\n\n# one more comment\nd O\n"
    sentences = read(text, "f.conll", tally=tally)
    assert [one.words for one in sentences] == [("a", "#", "b"), ("#", "c"), ("d",)]
    assert tally.counts() == {"comments, passed over": 2}


def test_conll_comments_of_one_word_are_known_by_it() -> None:
    text = "# newdoc\n# newpar\na O\n# newpar\n\n# new\nb O\n"
    sentences = read(text, "f.conll", tally=(tally := Tally()))
    assert [one.words for one in sentences] == [("a", "#"), ("#", "b")]
    assert tally.counts() == {"comments, passed over": 2}


def test_conll_words_alone() -> None:
    assert words_and_tags(read("a\nb\n\nc", "f.conll", tagged=False)) == [("a b", ""), ("c", "")]
    (one,) = read("a X", "f.conll", tagged=False)
    assert one.tags is None


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("a X\nb Y Z\n", GUESSED, "f.conll, line 2: 3 columns, but the lines before have 2"),
        ("a X\n# b Y\n", GUESSED, "f.conll, line 2: 3 columns, but the lines before have 2"),
        ("a X\n\nb\n", GUESSED, "f.conll, line 3: 1 column, but the lines before have 2"),
        ("\na\n", GUESSED, "f.conll, line 2: word and tag are the same column of 1"),
        ("a X", Columns(1, 3, "", ""), "line 1: tag_column = 3, but the line has 2 columns"),
        ("a X", Columns(-3, 1, "", ""), "line 1: word_column = -3, but the line has 2 columns"),
        ("a X", Columns(2, -1, "", ""), "line 1: word and tag are the same column of 2"),
    ],
)
def test_conll_refuses(text: str, columns: Columns, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(text, "f.conll", columns=columns)


def conllu(*lines: str) -> str:
    """Return lines of ID, FORM, UPOS and XPOS as CoNLL-U; others are as they are."""
    full = []
    for line in lines:
        cells = line.split("|")
        if len(cells) == 4:
            name, form, upos, xpos = cells
            line = "\t".join([name, form, "_", upos, xpos, *"_____"])  # noqa: PLW2901
        full.append(line)
    return "\n".join(full)


CONLLU = conllu(
    "# text = vámonos al mar", "1-2|vámonos|_|_", "1|vamos|VERB|V", "2|nos|PRON|P", "3-4|al|_|_",
    "3|a|ADP|A", "4|el|DET|D", "4.1|gran|ADJ|J", "5|mar|NOUN|N", "", "0.1|x|X|X",
    "1|New York|PROPN|_",
)  # fmt: skip


def test_conllu_has_words_alone() -> None:
    tally = Tally()
    sentences = read(CONLLU, "f.conllu", tally=tally)
    assert [one.words for one in sentences] == [("vamos", "nos", "a", "el", "mar"), ("New York",)]
    assert sentences[0].tags == ("VERB", "PRON", "ADP", "DET", "NOUN")
    assert tally.counts() == {
        "lines for several words together, passed over": 2,
        "words left out of the text, passed over": 2,
    }
    assert sentences[0].place == "f.conllu, line 3"


def test_conllu_fields_are_settings_and_a_tag_may_be_unknown() -> None:
    tally = Tally()
    sentences = read(CONLLU, "f.conllu", columns=Columns(1, -1, "", "XPOS"), tally=tally)
    assert [one.tags for one in sentences] == [("V", "P", "A", "D", "N"), ("",)]
    assert tally.counts()["words without XPOS, not learned"] == 1
    untagged = Tally()
    assert read(CONLLU, "f.conllu", tagged=False, tally=untagged)[0].tags is None
    assert "words without XPOS, not learned" not in untagged.counts()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("1|a|X|X", "3|b|X|X"), "f.conllu, line 2: ID '3' where 2 is expected"),
        (("1|a|X|X", "1|b|X|X"), "line 2: ID '1' where 2 is expected"),
        (("01|a|X|X",), "line 1: ID '01' where 1 is expected"),
        (("2-3|ab|_|_", "1|a|X|X"), "line 1: ID '2-3' where 1 is expected"),
        (("1-1|ab|_|_", "1|a|X|X"), "line 1: ID '1-1' where 1 is expected"),
        (("1|a|X|X", "2.1|b|X|X"), "line 2: ID '2.1' where 2 is expected"),
        (("1 a X X",), "line 1: 1 column separated by tabs: CoNLL-U has 10"),
    ],
)
def test_conllu_refuses(lines: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(conllu(*lines), "f.conllu")


def test_conllu_knows_its_fields() -> None:
    with pytest.raises(UserError, match="tag_key = 'POS' is none of ID, FORM, LEMMA, UPOS"):
        read(CONLLU, "f.conllu", columns=Columns(1, -1, "", "POS"))
    assert len(read(CONLLU, "f.conllu", columns=Columns(1, -1, "", "POS"), tagged=False)) == 2


TSV = "intent\ttokens\tslots\nGetWeather\twill it snow\tO O B-c\n\nPlay\tplay\tO\n"


def test_columns_have_a_sentence_a_line() -> None:
    tally = Tally()
    sentences = read(TSV, "f.tsv", tally=tally)
    assert words_and_tags(sentences) == [("will it snow", "O O B-c"), ("play", "O")]
    assert sentences[1].place == "f.tsv, line 4"
    assert tally.counts() == {"blank lines left out": 1}


def test_columns_are_settings_and_quotes_are_words() -> None:
    text = 'a\tb\n" x "\tO X O\n'
    columns = Columns(1, -1, "a", "b")
    assert words_and_tags(read(text, "f.tsv", columns=columns)) == [('" x "', "O X O")]
    assert words_and_tags(read("words\nx y\n", "f.tsv", tagged=False)) == [("x y", "")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tokens\ttags\na b\tO\n", "f.tsv, line 2: 2 words, but 1 tag: one a word is needed"),
        ("tokens\ttags\na\tO\tO\n", "f.tsv, line 2: 3 columns, but the header has 2"),
        (
            "tokens\tx\na\tO\n",
            r"line 1: .*'tokens', 'x', none has a usual name of tags \(tags, .*, chunk_tags\); "
            "choose: --set tag_key=NAME$",
        ),
        (
            "text\ttags\na\tO\n",
            r"line 1: .*none has a usual name of words \(tokens, words\); "
            "choose: --set word_key=NAME$",
        ),
        (
            "text\tlabel\na\tO\n",
            r"line 1: of the columns or keys 'text', 'label', none has a usual name of words "
            r"\(tokens, words\) and none has a usual name of tags \(tags, slots, labels, .*\); "
            "choose: --set word_key=NAME --set tag_key=NAME$",
        ),
        (
            "words\ttags\tner\na\tO\tO\n",
            "line 1: .*'tags' and 'ner' could be the tags; choose: --set tag_key=NAME$",
        ),
        ("", "f.tsv, line 1: .*; choose: --set word_key=NAME --set tag_key=NAME$"),
    ],
)
def test_columns_refuse(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(text, "f.tsv")


def test_a_key_that_is_missing_is_named() -> None:
    message = r"none is 'colour' \(tag_key\); choose: --set tag_key=NAME$"
    with pytest.raises(UserError, match=message):
        read(TSV, "f.tsv", columns=Columns(1, -1, "", "colour"))


def test_objects_have_a_sentence_a_line() -> None:
    text = (
        '{"words": ["New York", "is"], "ner": ["B-L", "O"], "id": [7]}\n\n{"tokens":[],"tags":[]}'
    )
    tally = Tally()
    first, second = read(text, "f.jsonl", tally=tally)
    assert (first.words, first.tags, first.id) == (("New York", "is"), ("B-L", "O"), [7])
    assert (first.text, first.offsets) == ("New York is", ((0, 8), (9, 11)))
    assert (second.words, second.place) == ((), "f.jsonl, line 3")
    assert tally.counts() == {"blank lines left out": 1}


def test_words_without_a_tag_are_counted() -> None:
    lines = '{"tokens": ["a", "b"], "tags": ["", "X"]}\n{"tokens": ["c"], "tags": [""]}\n'
    read(lines, "f.jsonl", tally=(tally := Tally()))
    assert tally.counts() == {"words without a tag, not learned": 2}


def test_every_line_of_objects_without_tags_has_an_answer() -> None:
    text = '{"text": "a b.", "id": 1}\n\n{"tokens": ["a b"], "predicate": 0}\n'
    sentences = read(text, "f.jsonl", tagged=False)
    assert [one.words for one in sentences] == [("a", "b", "."), (), ("a b",)]
    assert [one.predicate for one in sentences] == [None, None, 0]
    assert sentences[0].text == "a b."


def test_a_lone_surrogate_is_no_character() -> None:
    (one,) = read('{"tokens": ["\\ud800a"]}', "f.jsonl", tagged=False)
    assert one.words == ("\ufffda",)


HUGE = "a number that is read as infinity"
ONE, OTHER = '{"words": ["a"],\n "ner": ["X"]\n}', '{"words": ["b"],\n"ner": ["Y"]}'


@pytest.mark.parametrize(
    "text", [f"{ONE} {OTHER}\n", f"[{ONE},{OTHER}]", f"{ONE},\n{OTHER},\n", f"[{ONE},{OTHER},]"]
)
def test_a_json_file_may_have_objects_over_several_lines(text: str) -> None:
    assert words_and_tags(read(text, "f.json")) == [("a", "X"), ("b", "Y")]


def test_a_json_file_names_the_line_where_an_object_begins() -> None:
    text = '{"words": ["a"],\n "ner": ["X"]\n}\n\n {"words": ["b", "c"],\n"ner": ["Y"]}\n'
    with pytest.raises(UserError, match=r"f\.json, line 5: 2 words, but 1 tag: one"):
        read(text, "f.json")
    with pytest.raises(UserError, match=r"f\.json, line 4: 1 word, but 2 tags"):
        read(f'[{ONE}\n,{{"words": ["a"], "ner": ["X", "Y"]}}]', "f.json")
    with pytest.raises(UserError, match=r"f\.json, line 4: expected a JSON object"):
        read('{"words": ["a"],\n "ner": ["X"]\n}\n{"words": [}', "f.json")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"tokens": ["a"], "tags": "O"}, "expected an array 'tags', not a string"),
        ({"tokens": ["a"], "tags": [0]}, "expected a string 'tags', not a number"),
        ({"tokens": "a", "tags": ["O"]}, "expected an array 'tokens', not a string"),
        ({"tokens": ["a"], "tags": ["O", "O"]}, "1 word, but 2 tags"),
        ({"text": "a"}, "of the columns or keys 'text', none has a usual name of words .* and"),
        ({"tokens": ["a"], "tags": ["O"], "predicate": 1}, "predicate = 1 is no number of a word"),
        ({"tokens": ["a", "b"], "tags": ["O", "O"], "predicate": True}, "predicate = True is no"),
        ({"tokens": ["a"], "tags": ["O"], "predicate": "0"}, "predicate = '0' is no number"),
        (["a"], "expected a JSON object, not an array"),
        ({"tokens": ["a"], "tags": ["O"], "id": HUGE}, "the answer cannot repeat its 'id'"),
    ],
)
def test_objects_refuse(value: Any, message: str) -> None:
    with pytest.raises(UserError, match=f"f.jsonl, line 2: {message}"):
        read(f"\n{json.dumps(value).replace(json.dumps(HUGE), '1e999')}\n", "f.jsonl")


@pytest.mark.parametrize("text", ["word O", '{"tokens": [], "tags": [], "id": NaN}'])
@pytest.mark.parametrize("name", ["f.jsonl", "f.json"])
def test_a_line_that_is_no_json_is_refused(text: str, name: str) -> None:
    with pytest.raises(UserError, match=rf"{name}, line 2: expected a JSON object "):
        read(f"\n{text}\n", name)


PROPS = """# sent_id = 1
1 We PRP - - (ARG1*) (ARG0*)
2 're VBP be be.01 (V*) *
3 seen VBN see see.01 (ARG2* (V*)
4 there RB - - *) *

1 Hours NNS - -

1 Go VB go go.01 (V*)
"""
PLAIN = "We - (A0*\nall - *A0)\nsaw see (V*)\n\n# -\n"


def test_roles_have_a_sentence_for_each_predicate() -> None:
    tally = Tally()
    sentences = read(PROPS, "f.props", tally=tally)
    assert words_and_tags(sentences) == [
        ("We 're seen there", "B-ARG1 B-V B-ARG2 I-ARG2"),
        ("We 're seen there", "B-ARG0 O B-V O"),
        ("Go", "B-V"),
    ]
    assert [one.predicate for one in sentences] == [1, 2, 0]
    assert sentences[1].place == "f.props, line 2"
    assert next(tally.lines()) == (
        "1 sentence without a predicate, left out (the first: f.props, line 7)"
    )


def test_roles_side_by_side_with_words() -> None:
    """A hyphen behind # makes it a word; a bracket may be closed with its role."""
    tally = Tally()
    (one,) = read(PLAIN, "f.props", tally=tally)
    assert (one.words, one.tags, one.predicate) == (
        ("We", "all", "saw"), ("B-A0", "I-A0", "B-V"), 2,
    )  # fmt: skip
    assert tally.counts() == {"sentences without a predicate, left out": 1}


def test_predicates_without_roles_are_enough_to_predict() -> None:
    sentences = read("1 Go VB go go.01\n2 on RP - -\n3 now RB go x\n", "f.props", tagged=False)
    assert [(one.predicate, one.tags) for one in sentences] == [(0, None), (2, None)]


def roles(*cells: str) -> str:
    """Return a sentence of one predicate with these cells."""
    lemmas = ["be", *["-"] * (len(cells) - 1)]
    return "\n".join(
        f"{number} w X {lemma} - {cell}"
        for number, (lemma, cell) in enumerate(zip(lemmas, cells, strict=True), start=1)
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (roles("(V*)", "(A*", "*"), "f.props, line 2: the role 'A' is not closed in its sentence"),
        (roles("(V*)", "(A*", "(B*)"), r"line 3: '\(B\*\)' opens a role within 'A' of line 2"),
        (roles("(V*)", "*)"), r"line 2: '\*\)' closes a role that was not opened"),
        (roles("(V*)", "(A*", "*B)"), r"line 3: '\*B\)' closes 'A', opened in line 2"),
        (roles("(V*)", "A"), "line 2: 'A' is no role: expected"),
        (roles("(V*)", "(A(B*))"), "line 2: .* is no role: expected"),
        (
            "1 w X - - *\n2 w X - - *",
            "line 1: .* has 0 predicates, but 1 column of roles",
        ),
        (
            "1 w X be - (V*)\n2 w X be - *",
            "line 1: .* has 2 predicates, but 1 column of roles",
        ),
        ("1 w X be - (V*)\n3 w X - - *", "line 2: index '3' where 2 is expected"),
        ("1 w X be - (V*)\n\n2 w X be - (V*)", "line 3: index '2' where 1 is expected"),
        ("1 w X be - (V*)\n2 w X - -", "line 2: 5 columns, but the sentence begins with 6"),
        ("1 w X be - (V*)\n\n1 w X", "line 3: 3 columns: there should be 5, then one a predicate"),
    ],
)
def test_roles_refuse(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(text, "f.props")


def test_the_format_follows_from_the_ending_and_the_first_line() -> None:
    line = '{"tokens": ["a"], "tags": ["X"]}'
    assert words_and_tags(read(line)) == [("a", "X")]  # begins with a brace
    assert words_and_tags(read("a X\n", "f.txt")) == [("a", "X")]
    assert words_and_tags(read("a X\n", "f.txt", tagged=False)) == [("a X", "")]  # a text
    assert words_and_tags(read("a X\n", "f.txt", "conll", tagged=False)) == [("a", "")]
    assert read("", tagged=False) == []
    with pytest.raises(UserError, match=r"f\.conll, line 1: lines of text have no tags"):
        read("a X\n", "f.conll", "text")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ""),
        ("  John's\tcat,  \u2028ran", "John's|cat|,|ran"),
        ("(well-known) U.S.", "(|well-known|)|U.S|."),
        ("...", ".|.|."),
        ("\u00a1Hola!\u3000\u4e2d\u6587OK", "\u00a1|Hola|!|\u4e2d|\u6587|OK"),
        ('"$5"', '"|$|5|"'),
    ],
)
def test_text_is_cut_into_words(text: str, words: str) -> None:
    sentence = sentence_of_text("here", text)
    assert "|".join(sentence.words) == words
    assert [text[start:end] for start, end in sentence.offsets] == list(sentence.words)
    assert (sentence.text, sentence.tags) == (text, None)


def test_words_have_places_in_their_text() -> None:
    sentence = sentence_of("here", ["a b", "", "c"], None)
    assert sentence.text == "a b  c"
    assert [sentence.text[a:b] for a, b in sentence.offsets] == ["a b", "", "c"]
