"""A question and its context as rows of tokens: windows that move over the context.

    [CLS] question [SEP] part of the context [SEP]

A window begins ``doc_stride`` tokens after the one before, but at most half of the tokens that a
window shows. So an answer of at most half a window is whole in one of them; the original moves by a
whole window where rows are short. The last window is shorter.

A token is answered from the window in which it has the most context: the smaller one of its
distances to both ends, plus a hundredth of the window's length, is largest; of equal windows in the
first. (``prediction.windows`` needs no hundredth: its windows are of one length.)

Each token knows its characters in the context, so an answer is a piece of the context as it is
written. The original takes whole words of the context and looks in them for the answer's pieces
(``get_final_text``), which is not needed here. In training, too, an answer is exactly the pieces
that its characters touch.

A window that does not show the whole answer is learned as one with the answer at [CLS], yet not as
impossible, as in the original. A question longer than ``max_query_length`` is cut; the original
would fail where no room is left for the context, here a question takes half of it at most.
Source: google-research/electra finetune/qa/qa_tasks.py (``featurize``, ``_check_is_max_context``).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from electra_ref.text.wordpiece import WordPiece
from electra_ref.training.finetuning.formats.squad import Question
from electra_ref.training.finetuning.rows import row_of
from electra_ref.training.finetuning.tally import Tally
from electra_ref.training.finetuning.task import Feature

SPECIAL = 3  # [CLS] and twice [SEP]
LENGTH_SHARE = 0.01  # of a window's length, which counts as context


class Limits(NamedTuple):
    """How much of the text a row holds."""

    longest: int  # tokens of a row
    question: int  # tokens of a question
    stride: int  # tokens from window to window


class Window(NamedTuple):
    """What a row shows, and what is to be learned from it."""

    first: int  # column of the first token of the context
    offsets: npt.NDArray[np.int32]  # (n, 2)  [start, end) characters of each token of the context
    owned: tuple[int, int]  # [first, end) of these tokens: answers may start there
    answer: tuple[int, int]  # columns of the first and the last token of the answer; 0, 0 for none
    impossible: bool  # the question has no answer
    is_labelled: bool  # something is known of the answer


def windows_of(
    number: int, record: Question, tokenizer: WordPiece, limits: Limits, tally: Tally
) -> list[Feature]:
    """Return the windows of the question ``number``, one at least."""
    question = tokenizer.encode(record.question)
    tally.count_unknown(tokenizer, record.question, question, f"id {record.id}")
    most = min(limits.question, (limits.longest - SPECIAL) // 2)
    if len(question) > most:
        tally.add(f"questions cut to {most} tokens", f"id {record.id}")
    question = question[:most]
    context = tokenizer.encode_with_offsets(record.context)
    tally.count_unknown(tokenizer, record.context, context.ids, f"id {record.id}")
    offsets = np.array(context.offsets, np.int32).reshape(-1, 2)
    answer = _tokens_of(record, offsets, tally)
    room = limits.longest - SPECIAL - len(question)
    first = len(question) + 2
    parts = parts_of(len(offsets), room, limits.stride)
    if len(parts) > 1:
        tally.add(f"contexts in several windows of {limits.longest} tokens", f"id {record.id}")
    features = []
    for (start, end), owned in zip(parts, owned_of(parts), strict=True):
        row = row_of(tokenizer.special_tokens, question, context.ids[start:end])
        window = Window(
            first=first,
            offsets=offsets[start:end],
            owned=(owned[0] - start, owned[1] - start),
            answer=_columns(answer, start, end, first),
            impossible=record.impossible,
            is_labelled=record.impossible or answer is not None,
        )
        if answer is not None and window.answer == (0, 0):
            tally.add("windows without the whole answer", f"id {record.id}")
        features.append(Feature(number, (row,), window))
    return features


def parts_of(length: int, room: int, stride: int) -> list[tuple[int, int]]:
    """Return [start, end) of the windows of ``room`` tokens over ``length``, one at least."""
    step = max(1, min(stride, room // 2))
    starts = range(0, max(length - room, 0) + step, step)
    return [(start, min(start + room, length)) for start in starts]


def owned_of(parts: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return [first, end) of the tokens that are answered from each of ``parts``."""
    bounds = [parts[0][0], *(_change(*pair) for pair in pairwise(parts)), parts[-1][1]]
    return list(pairwise(bounds))


def _change(before: tuple[int, int], after: tuple[int, int]) -> int:
    """Return the first token that has more context in the window ``after``."""
    tokens = np.arange(after[0], before[1])
    more = _context(tokens, after) > _context(tokens, before)
    return after[0] + (int(more.argmax()) if more.any() else tokens.size)


def _context(tokens: npt.NDArray[np.int64], part: tuple[int, int]) -> npt.NDArray[np.float64]:
    start, end = part
    return np.minimum(tokens - start, end - 1 - tokens) + LENGTH_SHARE * (end - start)


def _tokens_of(
    record: Question, offsets: npt.NDArray[np.int32], tally: Tally
) -> tuple[int, int] | None:
    """Return the first and the last token that the answer touches, None if there is none."""
    if record.span is None:
        return None
    first = int(np.searchsorted(offsets[:, 1], record.span[0], "right"))
    last = int(np.searchsorted(offsets[:, 0], record.span[1], "left")) - 1
    if first > last:
        tally.add("answers without a token", f"id {record.id}")
        return None
    return first, last


def _columns(answer: tuple[int, int] | None, start: int, end: int, first: int) -> tuple[int, int]:
    """Return the columns of ``answer`` in the window [start, end), or those of [CLS]."""
    if answer is None or not start <= answer[0] <= answer[1] < end:
        return 0, 0
    return first + answer[0] - start, first + answer[1] - start
