"""A replacement for CuPy where there is no GPU: NumPy's functions with CuPy's restrictions.

Its arrays are NumPy arrays of another type. Like CuPy's they cannot be combined with host arrays,
converted to host arrays implicitly, or passed to NumPy's functions. Code that passes with them
keeps the two kinds of array apart. The tests marked ``gpu`` check that CuPy computes the same.
"""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.special


class DeviceArray(np.ndarray[Any, Any]):
    """An array that acts as if it were in another memory."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """Compute on the bare arrays; refuse a host array among them."""
        out = kwargs.get("out", ())
        for operand in (*inputs, *out):
            if type(operand) is np.ndarray:
                raise TypeError(f"{ufunc.__name__} of a device array and a host array")
        kwargs["out"] = tuple(map(bare, out)) if out else None
        result = getattr(ufunc, method)(*map(bare, inputs), **kwargs)
        return out[0] if out else on_device(result)

    def __array_function__(self, function: Any, *_: Any) -> Any:
        """Refuse NumPy's functions, as CuPy does for all that it has not got itself."""
        raise TypeError(f"numpy.{function.__name__} was given a device array")

    @property
    def data(self) -> Any:
        """CuPy's, which knows the address."""
        return SimpleNamespace(ptr=self.ctypes.data)

    def __setitem__(self, key: Any, value: Any) -> None:
        if type(value) is np.ndarray:
            raise TypeError("a host array cannot be stored in a device array")
        super().__setitem__(key, value)


DeviceArray.__module__ = "cupy"


def bare(value: Any) -> Any:
    """Return NumPy's view of a device array, and lists of them; anything else as it is."""
    if isinstance(value, list | tuple):
        return type(value)(bare(entry) for entry in value)
    return value.view(np.ndarray) if isinstance(value, DeviceArray) else value


def on_device(value: Any) -> Any:
    """Return ``value`` as a device array; CuPy's scalars are arrays, too."""
    return (
        np.asarray(value).view(DeviceArray) if isinstance(value, np.ndarray | np.generic) else value
    )


class Functions(ModuleType):
    """A module whose functions are NumPy's (or SciPy's), from device arrays to device arrays."""

    def __init__(self, name: str, source: Any) -> None:
        super().__init__(name)
        self.__dict__["_source"] = source

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._source, name)
        if not callable(found) or isinstance(found, type):
            return found
        function = guarded(found)
        if isinstance(found, np.ufunc):
            function.__dict__["reduceat"] = guarded(found.reduceat)
        return function


def guarded(function: Any) -> Any:
    """Return ``function`` for device arrays only."""

    def call(*arguments: Any, **keywords: Any) -> Any:
        if any(type(argument) is np.ndarray for argument in (*arguments, *keywords.values())):
            raise TypeError(f"cupy.{function.__name__} was given a host array")
        bare_keywords = {key: bare(value) for key, value in keywords.items()}
        return on_device(function(*map(bare, arguments), **bare_keywords))

    return call


def install(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Put the stand-in where ``import cupy`` finds it; return it."""
    cupy, cupyx = Functions("cupy", np), ModuleType("cupyx")
    cupy.__dict__["asarray"] = on_device
    cupy.__dict__["asnumpy"] = bare
    special = Functions("cupyx.scipy.special", scipy.special)
    modules = {
        "cupy": cupy,
        "cupyx": cupyx,
        "cupyx.scipy": ModuleType("cupyx.scipy"),
        "cupyx.scipy.special": special,
    }
    cupyx.__dict__["scipy"] = modules["cupyx.scipy"]
    modules["cupyx.scipy"].__dict__["special"] = special
    for name, module in modules.items():
        monkeypatch.setitem(__import__("sys").modules, name, module)
    return cupy
