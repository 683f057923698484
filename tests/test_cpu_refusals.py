"""What the operations of the CPU refuse, before a kernel reads or writes beyond an array."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from electra_ref.gradient import GradientSum
from tests import fast_operations as tested


def test_what_does_not_fit_is_refused() -> None:
    """By an error, before a kernel that does not look reads or writes beyond an array."""
    cpu = tested.CPU
    x, ids = np.ones((6, 4), np.float32), np.zeros((2, 3), np.int32)
    qkv, mask, six = np.ones((6, 12), np.float32), ids == 0, ids.reshape(-1)
    word, position, segment = (np.ones((n, 4), np.float32) for n in (5, 3, 2))
    cpu.embed(word, position, segment, ids + 4, ids + 1)  # all that is in the tables is allowed
    rates = "gradient_scale", "learning_rate", "beta1", "beta2", "epsilon", "weight_decay"
    adam = dict.fromkeys(rates, 0.5)
    refused: list[tuple[type[Exception], str, Callable[..., Any], tuple[Any, ...]]] = [
        (ValueError, "position", cpu.embed, (word, position[:2], segment, ids, ids)),
        (ValueError, "float32", cpu.embed, (word, position[:, :2], segment, ids, ids)),
        (ValueError, "types", cpu.embed, (word, position, segment, ids, ids[:1])),
        (IndexError, "table of 5", cpu.embed, (word, position, segment, ids + 5, ids)),
        (IndexError, "table of 5", cpu.embed, (word, position, segment, ids - 1, ids)),
        (IndexError, "table of 2", cpu.embed, (word, position, segment, ids, ids + 2)),
        (ValueError, "not fit", cpu.linear, (x, x, x[0])),
        (ValueError, "not fit", cpu.linear, (x, x.T, x[0])),
        (ValueError, "float32", cpu.linear, (x.astype(float), x.T, x[:, 0])),
        (ValueError, "float32", cpu.linear, (x, x.T.astype(float), x[:, 0])),
        (ValueError, "gamma", cpu.layer_norm, (x, x[0], x[0, :3], 1e-3)),
        (ValueError, "float32", cpu.layer_norm, (x.astype(float), x[0], x[0], 1e-3)),
        (
            ValueError,
            "float32",
            cpu.dropout_add_layer_norm,
            (x, x[:3], x[0], x[0], None, 0.0, 1e-3),
        ),
        (ValueError, "float32", cpu.gelu, (x.astype(float),)),
        (
            ValueError,
            "float32",
            cpu.softmax_cross_entropy,
            (x.astype(float), ids[0], ids[0]),
        ),
        (ValueError, "3 heads", cpu.attention, (qkv, mask, 3, None, 0.0)),
        (ValueError, "5 rows are neither", cpu.attention, (qkv[:5], mask, 2, None, 0.0)),
        (ValueError, "float32", cpu.attention, (qkv.astype(float), mask, 2, None, 0.0)),
        (ValueError, "float32", cpu.attention, (qkv[:, :11], mask, 3, None, 0.0)),
        (ValueError, "rate", cpu.dropout, (x, None, 1.0)),
        (ValueError, "rate", cpu.dropout, (x, None, -0.1)),
        (ValueError, "float32", lambda: cpu.adamw(x[0], x[0, :3], x[0], x[0], **adam), ()),
        (ValueError, "float32", lambda: cpu.adamw(x, x, x, x, **adam), ()),
        (ValueError, "float32", cpu.add_gradients, (x[0], x[0, :3])),
        (ValueError, "float32", cpu.add_gradients, (x, x)),
        (ValueError, "float32", cpu.global_norm, (x,)),
        (ValueError, "batch of 4", cpu.gather_positions, (x, np.zeros((4, 2), np.int32))),
        (IndexError, "out of bounds", cpu.gather_positions, (x, ids + 6)),
        (
            IndexError,
            "out of bounds",
            cpu.softmax_cross_entropy,
            (x, np.full(6, 4), x[:, 0]),
        ),
        (ValueError, "not fit", cpu.relax_embeddings, (x, x[:3], 1.0, x[:4], ids[0], False)),
        (
            ValueError,
            "float32",
            cpu.relax_embeddings,
            (*[x.astype(float)] * 2, 1.0, x[:4], six, True),
        ),
        (
            ValueError,
            "float32",
            cpu.relax_embeddings,
            (x, x, 1.0, x[:4].astype(float), six, True),
        ),
        (ValueError, "temperature", cpu.relax_embeddings, (x, x, 0.0, x[:4], six, True)),
        (IndexError, "table of 4", cpu.relax_embeddings, (x, x, 1.0, x[:4], six + 4, True)),
        (IndexError, "table of 4", cpu.relax_embeddings, (x, x, 1.0, x[:4], six - 1, True)),
        (ValueError, "not fit", cpu.vocabulary_log_likelihood, (x, x, x[0], six)),
        (
            ValueError,
            "float32",
            cpu.vocabulary_log_likelihood,
            (x.astype(float), x, x[:, 0], six),
        ),
        (
            ValueError,
            "float32",
            cpu.vocabulary_log_likelihood,
            (x, x.astype(float), x[:, 0], six),
        ),
        (
            ValueError,
            "float32",
            cpu.vocabulary_log_likelihood,
            (x, x, x[:, 0].astype(float), six),
        ),
        (IndexError, "table of 6", cpu.vocabulary_log_likelihood, (x, x, x[:, 0], six + 6)),
        (IndexError, "table of 6", cpu.vocabulary_log_likelihood, (x, x, x[:, 0], six - 1)),
    ]
    for error, message, operation, arguments in refused:
        with pytest.raises(error, match=message):
            operation(*arguments)
    w, b = x.T, x[:, 0]
    caches: dict[str, tuple[Any, tuple[Any, ...]]] = {  # and what fits the sums
        "linear": (cpu.linear(x, w, b)[1], (w, b)),
        "layer_norm": (cpu.layer_norm(x, x[0], x[0], 1e-3)[1], (x[0], x[0])),
        "gelu": (cpu.gelu(x)[1], ()),
        "attention": (cpu.attention(qkv, mask, 2, None, 0.0)[1], ()),
        "embed": (
            cpu.embed(word, position, segment, ids, ids)[1],
            (word, position, segment),
        ),
        "gather_positions": (cpu.gather_positions(x, ids)[1], ()),
        "dropout_add_layer_norm": (
            cpu.dropout_add_layer_norm(x, x, x[0], x[0], None, 0.0, 1e-3)[1],
            (x[0], x[0]),
        ),
        "relax_embeddings": (
            cpu.relax_embeddings(x, x, 1.0, x[:4], six, False)[1],
            (x[:4],),
        ),
    }
    for name, (cache, arrays) in caches.items():
        backward = getattr(cpu, name + "_backward")
        sums = [GradientSum(array.copy(), is_empty=True) for array in arrays]
        dy = np.zeros((6, 6 if name == "linear" else 4), np.float32)
        backward(dy, cache, *sums)
        for wrong in (dy[:5], dy.astype(float)):
            with pytest.raises(ValueError, match="expected float32"):
                backward(wrong, cache, *sums)
        for number, array in enumerate(arrays):
            for wrong in (array[..., :3], array.astype(float), np.zeros((1, *array.shape), "f4")):
                sums[number] = GradientSum(wrong, is_empty=True)
                with pytest.raises(ValueError, match="expected float32"):
                    backward(dy, cache, *sums)
            sums[number] = GradientSum(array.copy(), is_empty=True)


def test_sums_for_ids_that_are_not_in_their_table_are_refused() -> None:
    """The table of the forward pass had more rows than the sums have."""
    ids, table, dx = np.full((1, 3), 1, np.int32), np.ones((3, 4), "f4"), np.ones((3, 4), "f4")
    _, cache = tested.CPU.embed(table, table, table, ids, ids)
    for short, error in ((0, IndexError), (1, ValueError), (2, IndexError)):
        heights = [1 if n == short else 3 for n in range(3)]
        sums = [GradientSum(np.ones((height, 4), "f4"), is_empty=True) for height in heights]
        with pytest.raises(error, match=r"table of 1|only 1 sums"):
            tested.CPU.embed_backward(dx, cache, *sums)


def test_arrays_stay_where_they_are() -> None:
    x = np.ones(3, np.float32)
    assert tested.CPU.to_device(x) is x
    assert tested.CPU.to_host(x) is x
