"""From a stream of tokens to examples: which tokens share a row, and which segment each is in.

An example is (start, split, end) in the token stream, inside one document. It becomes the row

    [CLS] tokens[start:split] [SEP]                              segment A alone
    [CLS] tokens[start:split] [SEP] tokens[split:end] [SEP]      with segment B, if split < end

The rules are those of build_pretraining_dataset.py of google-research/electra:

* Sentences are taken until they reach the target length. It is ``max_length``, or with probability
  ``short_probability`` a random length from 5 to ``max_length``.
* With probability ``single_segment_probability`` all sentences go to A.
* Otherwise the first goes to A. A further sentence goes to A if A with it is shorter than
  (target - 3) // 2, or with probability 1/2 if A without it is shorter. The rest goes to B.
* A is cut to ``max_length`` - 2 tokens, and A and B together to ``max_length`` - 3.

Differences from the original:

* Tokens that are cut off start the next example. The original throws them away. Here every token
  of the corpus is in exactly one example.
* Once B has begun, nothing goes to A. The original may append a later sentence to A, out of order.
* The target is drawn at the start of its example. The original draws it at the end of the one
  before.
* Each document has its own random numbers (Philox, PACK), so its examples do not depend on other
  documents or on the order of the work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from electra_ref.compilation import jit
from electra_ref.rng import (
    Purpose,
    RandomStream,
    key_words,
    philox_block,
    random_words_reference,
)

SHORTEST_TARGET = 5
DOCUMENTS_AT_A_TIME = 1024

_NO_TARGET = 1 << 62
_WORD = 2.0**32
_PACK = np.uint64(Purpose.PACK)


class PackingRules(NamedTuple):
    """What the examples depend on, apart from the corpus."""

    max_length: int  # tokens of a row, [CLS] and [SEP] included; at least SHORTEST_TARGET
    single_segment_probability: float
    short_probability: float
    seed: int


def pack(
    sentence_ends: npt.NDArray[np.int64],
    document_ends: npt.NDArray[np.int64],
    chosen: npt.NDArray[np.int64],
    rules: PackingRules,
    first: int = 0,
) -> Iterator[npt.NDArray[np.int64]]:
    """Yield arrays of examples (n, 3) of the documents with the numbers ``chosen`` (documents,).

    ``sentence_ends`` (sentences,) counts tokens, ``document_ends`` (documents,) sentences, both as
    in a shard of a token cache. ``first`` is the number, in the whole corpus, of the first document
    of the shard: it names the random numbers. Raises ValueError if ``rules.max_length`` is below
    SHORTEST_TARGET.
    """
    _check(rules)
    nothing = np.empty((0, 3), np.int64)
    for start in range(0, chosen.size, DOCUMENTS_AT_A_TIME):
        some = chosen[start : start + DOCUMENTS_AT_A_TIME]
        key = key_words(rules.seed)
        arguments = (sentence_ends, document_ends, some, first, *rules[:3], key)
        examples = np.empty((_pack_documents(*arguments, nothing), 3), np.int64)
        _pack_documents(*arguments, examples)
        yield examples


def _check(rules: PackingRules) -> None:
    if rules.max_length < SHORTEST_TARGET:
        raise ValueError(f"max_length is {rules.max_length}, need at least {SHORTEST_TARGET}")


@jit()
def _draw(document: int, word: int, key: tuple[np.uint64, np.uint64]) -> float:
    """Return word number ``word`` of a document as a multiple of 2**-32 in [0, 1)."""
    low, high = document & 0xFFFF_FFFF, document >> 32
    block = philox_block(np.uint64(word // 4), np.uint64(low), np.uint64(high), _PACK, key)
    return float(block[word % 4]) / _WORD


@jit()
def _pack_documents(
    sentence_ends: npt.NDArray[np.int64],
    document_ends: npt.NDArray[np.int64],
    chosen: npt.NDArray[np.int64],
    first: int,
    max_length: int,
    single_segment_probability: float,
    short_probability: float,
    key: tuple[np.uint64, np.uint64],
    examples: npt.NDArray[np.int64],
) -> int:
    """Return the number of examples; write as many as fit into ``examples`` (n, 3)."""
    count = 0
    for document in chosen:
        sentence = document_ends[document - 1] if document > 0 else 0
        last_sentence = document_ends[document] - 1
        start = sentence_ends[sentence - 1] if sentence > 0 else 0
        word = 0
        while start < sentence_ends[last_sentence]:
            single = _draw(first + document, word, key) < single_segment_probability
            target = max_length
            if _draw(first + document, word + 1, key) < short_probability:
                choices = max_length - SHORTEST_TARGET + 1
                target = SHORTEST_TARGET + int(_draw(first + document, word + 2, key) * choices)
            word += 3
            first_target = _NO_TARGET if single else (target - 3) // 2

            split = end = sentence_ends[sentence]
            in_a = True
            while end - start < target and sentence < last_sentence:
                sentence += 1
                end = sentence_ends[sentence]
                if in_a and end - start >= first_target:
                    in_a = split - start < first_target
                    if in_a:
                        in_a = _draw(first + document, word, key) < 0.5
                        word += 1
                if in_a:
                    split = end
            split = min(split, start + max_length - 2)
            end = max(split, min(end, start + max_length - 3))

            if count < examples.shape[0]:
                # not as one assignment: numba takes a second to compile its error message
                examples[count, 0] = start
                examples[count, 1] = split
                examples[count, 2] = end
            count += 1
            start = end
            while sentence > 0 and sentence_ends[sentence - 1] > start:
                sentence -= 1
            if sentence < last_sentence and sentence_ends[sentence] == start:
                sentence += 1
    return count


def pack_reference(
    sentence_ends: npt.NDArray[np.int64],
    document_ends: npt.NDArray[np.int64],
    chosen: npt.NDArray[np.int64],
    rules: PackingRules,
    first: int = 0,
) -> npt.NDArray[np.int64]:
    """Return what ``pack`` yields as one array, computed with lists of sentences."""
    _check(rules)
    starts = [0, *sentence_ends.tolist()]
    firsts = [0, *document_ends.tolist()]
    examples = []
    for document in chosen.tolist():
        draw = _drawing(first + document, rules.seed)
        sentences = [
            list(range(starts[s], starts[s + 1]))
            for s in range(firsts[document], firsts[document + 1])
        ]
        while sentences:
            a, b = _next_example(sentences, rules, draw)
            examples.append((a[0], a[-1] + 1, (a + b)[-1] + 1))
            sentences = _without_first(sentences, len(a) + len(b))
    return np.array(examples, np.int64).reshape(-1, 3)


def _next_example(
    sentences: list[list[int]], rules: PackingRules, draw: Callable[[], float]
) -> tuple[list[int], list[int]]:
    """Return segments A and B of the example that starts with the first of ``sentences``."""
    single, short, length = draw(), draw(), draw()
    target = rules.max_length
    if short < rules.short_probability:
        target = SHORTEST_TARGET + int(length * (rules.max_length - SHORTEST_TARGET + 1))
    first_target = (target - 3) // 2
    if single < rules.single_segment_probability:
        first_target = _NO_TARGET
    a: list[int] = []
    b: list[int] = []
    for sentence in sentences:
        if len(a) + len(b) >= target:
            break
        if not b and (
            not a
            or len(a) + len(sentence) < first_target
            or (len(a) < first_target and draw() < 0.5)
        ):
            a = a + sentence
        else:
            b = b + sentence
    a_overflows = len(a) > rules.max_length - 2
    a = a[: rules.max_length - 2]
    return a, [] if a_overflows else b[: max(0, rules.max_length - 3 - len(a))]


def _without_first(sentences: list[list[int]], tokens: int) -> list[list[int]]:
    """Remove the first ``tokens`` tokens."""
    rest = []
    for sentence in sentences:
        rest.append(sentence[tokens:])
        tokens = max(0, tokens - len(sentence))
    return [sentence for sentence in rest if sentence]


def _drawing(document: int, seed: int) -> Callable[[], float]:
    """Return a function that returns the next random number of ``document`` at each call."""
    stream = RandomStream(seed, Purpose.PACK, step=document >> 32, first_example=document % 2**32)
    words: list[int] = []
    drawn = 0

    def draw() -> float:
        nonlocal words, drawn
        if drawn == len(words):
            words = random_words_reference(stream, 1, 2 * drawn + 16)[0].tolist()
        drawn += 1
        return words[drawn - 1] / _WORD

    return draw
