"""What the model asks of a backend, and how one is chosen.

The model is written once against the ``Backend`` protocol. A backend is a module that has these
functions. Each operation is a pair of pure functions: the forward one returns its result and a
cache, the backward one takes the gradient of the result and that cache, returns the gradients of
the activations, and adds those of the parameters to the sums it is given. Two operations whose
caches are large take ``with_cache``: if it is False, the cache is None, and what only the backward
pass needs is neither computed nor stored. The bits of the result are the same.
``electra_ref.backends.reference`` holds the formula behind each name.

Who may write where:

* An operation reads its arguments and may keep references to them in its cache. It may return an
  argument itself, or one array twice: dropout that drops nothing does. Therefore nobody, neither
  the model nor an operation, writes into an array that an operation took or returned.
* A backward function leaves the cache as it was: it can be called again.
* Three functions write, into arrays that no cache refers to: a backward function into the
  ``GradientSum`` arguments, ``add_gradients`` into ``total``, ``adamw`` into parameters and
  moments. The caches of a step refer to the parameters, so ``adamw`` is called after its last
  backward function.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from electra_ref import arrays
from electra_ref.arrays import Array
from electra_ref.compilation import is_interpreted
from electra_ref.errors import UserError
from electra_ref.gradient import GradientSum
from electra_ref.rng import RandomStream

Cache = Any  # what a backward pass needs; only the backend that made it looks inside
Bits = Any  # random bits of a dropout, as the backend made them; None in evaluation

NO_CUPY = "CuPy is not installed (pip install 'electra-ref[gpu]', for CUDA 12 [gpu-cuda12])"


class Backend(Protocol):
    """The operations of ELECTRA; see ``backends.reference`` for formulas, shapes and sources."""

    def to_device(self, array: Array) -> Array: ...
    def to_host(self, array: Array) -> Array: ...
    def dropout_bits(self, stream: RandomStream, examples: int, count: int) -> Bits: ...
    def bits_of_rows(self, bits: Bits, rows: Array, count: int) -> Bits: ...

    def embed(
        self, word: Array, position: Array, segment: Array, input_ids: Array, token_type_ids: Array
    ) -> tuple[Array, Cache]: ...
    def embed_backward(
        self,
        dx: Array,
        cache: Cache,
        dword: GradientSum,
        dposition: GradientSum,
        dsegment: GradientSum,
    ) -> None: ...

    def linear(self, x: Array, weight: Array, bias: Array) -> tuple[Array, Cache]: ...
    def linear_backward(
        self,
        dy: Array,
        cache: Cache,
        dweight: GradientSum,
        dbias: GradientSum,
        dx_elsewhere: Array | None = None,
    ) -> Array: ...

    def layer_norm(
        self, x: Array, gamma: Array, beta: Array, eps: float
    ) -> tuple[Array, Cache]: ...
    def layer_norm_backward(
        self, dy: Array, cache: Cache, dgamma: GradientSum, dbeta: GradientSum
    ) -> Array: ...

    def dropout(self, x: Array, bits: Bits, rate: float) -> tuple[Array, Cache]: ...
    def dropout_backward(self, dy: Array, cache: Cache) -> Array: ...

    def dropout_add_layer_norm(
        self,
        x: Array,
        residual: Array,
        gamma: Array,
        beta: Array,
        bits: Bits,
        rate: float,
        eps: float,
        with_cache: bool = True,
    ) -> tuple[Array, Cache]: ...
    def dropout_add_layer_norm_backward(
        self, dy: Array, cache: Cache, dgamma: GradientSum, dbeta: GradientSum
    ) -> tuple[Array, Array]: ...

    def attention(
        self,
        query_key_value: Array,
        attention_mask: Array,
        num_attention_heads: int,
        bits: Bits,
        rate: float,
        with_cache: bool = True,
    ) -> tuple[Array, Cache]: ...
    def attention_backward(self, dcontext: Array, cache: Cache) -> Array: ...

    def gelu(self, x: Array) -> tuple[Array, Cache]: ...
    def gelu_backward(self, dy: Array, cache: Cache) -> Array: ...

    def gather_positions(self, x: Array, positions: Array) -> tuple[Array, Cache]: ...
    def gather_positions_backward(self, dy: Array, cache: Cache) -> Array: ...

    def softmax_cross_entropy(
        self, logits: Array, labels: Array, weights: Array
    ) -> tuple[Array, Cache]: ...
    def softmax_cross_entropy_backward(self, dloss: float, cache: Cache) -> Array: ...

    def binary_cross_entropy(
        self, logits: Array, labels: Array, weights: Array
    ) -> tuple[Array, Cache]: ...
    def binary_cross_entropy_backward(self, dloss: float, cache: Cache) -> Array: ...

    def relax_embeddings(
        self,
        logits: Array,
        noise: Array,
        temperature: float,
        table: Array,
        sampled_ids: Array,
        straight_through: bool,
    ) -> tuple[Array, Cache]: ...
    def relax_embeddings_backward(
        self, ddelta: Array, cache: Cache, dtable: GradientSum | None
    ) -> Array: ...

    def vocabulary_log_likelihood(
        self, x: Array, table: Array, bias: Array, labels: Array
    ) -> tuple[Array, Cache]: ...
    def vocabulary_log_likelihood_backward(
        self, dlog_likelihood: Array, cache: Cache, dtable: GradientSum, dbias: GradientSum
    ) -> Array: ...

    def copy_gate_cross_entropy(
        self, gate_logits: Array, log_likelihoods: Array, is_copy: Array, weights: Array
    ) -> tuple[Array, Cache]: ...
    def copy_gate_cross_entropy_backward(
        self, dloss: float, cache: Cache
    ) -> tuple[Array, Array]: ...

    def add_gradients(self, total: Array, part: Array) -> None: ...
    def global_norm(self, gradients: Array) -> Array: ...
    def adamw(
        self,
        parameters: Array,
        gradients: Array,
        first_moment: Array,
        second_moment: Array,
        *,
        gradient_scale: float,
        learning_rate: float,
        beta1: float,
        beta2: float,
        epsilon: float,
        weight_decay: float,
    ) -> None: ...


class OpenedBackend(NamedTuple):
    """A backend, its device and float type, and why it was chosen."""

    backend: Backend
    name: str  # "cpu", "cpu, bfloat16 products", "gpu" or "reference"
    dtype: str  # NumPy's name of the float type of parameters and activations
    device: str  # "cpu" or "gpu"
    reason: str  # one line for people


def open_backend(device: str, precision: str) -> OpenedBackend:
    """Choose the backend for ``device`` (auto, cpu, gpu, reference) and ``precision``.

    ``auto`` takes the GPU if there is one. The precisions ``auto`` and ``bfloat16`` are bfloat16
    products on a CPU with instructions for them, otherwise float32; the reason says which. Raises
    UserError if the device is not available, or has no kernels for the precision.
    """
    if device == "cpu":
        return _open_cpu_backend(precision)
    dtype = "float32" if precision == "auto" else precision
    if device != "reference" and (missing := why_no_gpu()) is not None:
        if device == "gpu":
            raise UserError(f"--device gpu: {missing}; use --device cpu")
        on_cpu = _open_cpu_backend(precision)
        if missing == NO_CUPY:  # nobody asked for a GPU
            return on_cpu
        return on_cpu._replace(reason=f"{on_cpu.reason} (auto: {missing})")
    if precision == "bfloat16":
        raise UserError("--precision bfloat16 needs --device cpu; use float32")
    from electra_ref.backends import gpu, reference  # noqa: PLC0415  (only where chosen)

    if device == "reference":
        return OpenedBackend(reference, "reference", dtype, "cpu", f"device: cpu, {dtype}")
    cupy = arrays.import_cupy()
    name = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
    reason = f"device: gpu, {name}, {dtype}" + (" (auto: found)" if device == "auto" else "")
    return OpenedBackend(gpu, "gpu", dtype, "gpu", reason)


def _open_cpu_backend(precision: str) -> OpenedBackend:
    if precision == "float64":
        raise UserError("--precision float64: the CPU's kernels have none; use --device reference")
    from electra_ref.backends import cpu  # noqa: PLC0415  (loads numba)
    from electra_ref.backends.cpu import bfloat16  # noqa: PLC0415

    in_float32 = OpenedBackend(cpu, "cpu", "float32", "cpu", "device: cpu, float32")
    if precision == "float32":
        return in_float32
    if not bfloat16.is_compiled():
        no_instructions = "this processor has no AVX512_BF16"
        missing = "NUMBA_DISABLE_JIT is set" if is_interpreted() else no_instructions
        return in_float32._replace(reason=f"{in_float32.reason}; {missing}")
    return OpenedBackend(
        bfloat16,
        "cpu, bfloat16 products",
        "float32",
        "cpu",
        "device: cpu, bfloat16 products, float32 sums and parameters",
    )


def why_no_gpu() -> str | None:
    """Return why CuPy cannot compute on a GPU here, in a few words, or None if it can."""
    try:
        cupy = arrays.import_cupy()
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "cupy":
            return NO_CUPY
        return f"CuPy cannot be loaded ({_first_line(error)})"
    try:
        cupy.cuda.runtime.getDeviceCount()
        square = cupy.ones((2, 2))
        (square @ square).sum().item()  # needs a kernel that is compiled here, and cuBLAS
    except Exception as error:  # CuPy raises many kinds; all mean the same here
        return f"CuPy finds no usable GPU ({_first_line(error)})"
    return None


def _first_line(error: Exception) -> str:
    """Return the first line of a message that has words in it, or the kind of the error."""
    lines = (line.strip(" =") for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)
