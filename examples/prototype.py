#!/usr/bin/env python3
"""libvtc from Python by ctypes: NumPy arrays in, a plan and fewer tokens out, and no copies.

    python3 prototype.py [path/to/libvtc.so]    default: $VTC_LIBRARY, then the system's libvtc

ToMe merges 576 tokens into 320 and the same plan moves their ids and a K cache. libvtc allocates
nothing, so every array below is NumPy's: the library writes into the memory that it is given.
"""
import ctypes
import ctypes.util
import os
import sys
from ctypes import POINTER, Structure, c_char_p, c_float, c_int, c_int32, c_size_t, c_void_p

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read once, when NumPy loads OpenBLAS
import numpy as np

# ---- the structs of vtc/base.h, plan.h and prune.h, field by field ------------------------------

DTYPES = {"float32": 1, "float16": 2, "int32": 4, "int64": 5, "uint8": 6, "bool": 7}
MAX_RANK = 6

TASK = ctypes.CFUNCTYPE(None, c_void_p, c_size_t, c_size_t)
PARALLEL_FOR = ctypes.CFUNCTYPE(None, c_void_p, c_size_t, TASK, c_void_p)
ON_ERROR = ctypes.CFUNCTYPE(None, c_void_p, c_int, c_char_p)


class vtc_tensor(Structure):
    _fields_ = [("data", c_void_p), ("dtype", c_int), ("rank", c_int), ("dim", c_size_t * MAX_RANK),
                ("stride", c_size_t * MAX_RANK), ("reserved", c_size_t * 2)]


class vtc_exec(Structure):
    _fields_ = [("struct_size", c_size_t), ("scratch", c_void_p), ("scratch_size", c_size_t),
                ("n_workers", c_size_t), ("parallel_for", PARALLEL_FOR), ("pool", c_void_p),
                ("on_error", ON_ERROR), ("user", c_void_p), ("sgemm", c_void_p),
                ("sgemm_cookie", c_void_p)]


class vtc_plan(Structure):
    _fields_ = [("struct_size", c_size_t), ("n_in", c_size_t), ("n_out", c_size_t),
                ("cap_in", c_size_t), ("cap_out", c_size_t), ("cap_nnz", c_size_t),
                ("reduce", c_int), ("keep", POINTER(c_int32)), ("begin", POINTER(c_int32)),
                ("source", POINTER(c_int32)), ("weight", POINTER(c_float)),
                ("mass", POINTER(c_float)), ("score", POINTER(c_float)), ("fate", POINTER(c_int32))]


class vtc_plan_count(Structure):
    _fields_ = [("n_in", c_size_t), ("n_out", c_size_t), ("n_nnz", c_size_t), ("exact", c_int)]


class vtc_tome_params(Structure):
    _fields_ = [("struct_size", c_size_t), ("n_merge", c_size_t), ("class_token", c_int),
                ("distill_token", c_int)]


# ---- calls ---------------------------------------------------------------------------------------


class VtcError(RuntimeError):
    pass


class Library:
    """Checks every status and keeps what the C side points to alive."""

    def __init__(self, path):
        self.c = ctypes.CDLL(path)
        self.c.vtc_status_string.restype = c_char_p
        self.message = ""
        self.exec = vtc_exec(struct_size=ctypes.sizeof(vtc_exec), n_workers=1,
                             on_error=ON_ERROR(self.remember))

    def remember(self, user, status, message):
        """An exception cannot cross C: this one is raised by call()."""
        self.message = message.decode()

    def call(self, name, *arguments):
        """vtc_<name>(arguments): structs go by reference, numbers as size_t."""
        by_reference = (ctypes.byref(a) if isinstance(a, Structure) else
                        c_size_t(a) if isinstance(a, int) else a for a in arguments)
        status = getattr(self.c, "vtc_" + name)(*by_reference)
        if status != 0:
            raise VtcError(f"{self.c.vtc_status_string(status).decode()}: {self.message}")

    def scratch_for(self, name, *arguments):
        """Gives the executor what vtc_<name>() needs for these arguments."""
        size = c_size_t()
        self.call(name + "_scratch", *arguments, self.exec, ctypes.byref(size))
        self.scratch = aligned_bytes(size.value)
        self.exec.scratch, self.exec.scratch_size = self.scratch.ctypes.data, size.value


def aligned_bytes(n, alignment=64):
    raw = np.empty(n + alignment, np.uint8)
    start = -raw.ctypes.data % alignment
    return raw[start:start + n]


def view(array):
    """The same memory as a tensor view. Strides may have gaps, but the innermost must be 1."""
    strides = [s // array.itemsize for s in array.strides]
    return vtc_tensor(array.ctypes.data, DTYPES[array.dtype.name], array.ndim,
                      (c_size_t * MAX_RANK)(*array.shape), (c_size_t * MAX_RANK)(*strides))


def rows(pointer, n):
    """n elements behind a pointer of the plan as an array, not copied."""
    return np.ctypeslib.as_array(pointer, (n,))


# ---- the program ---------------------------------------------------------------------------------


def plan_tome(vtc, x, n_merge):
    """The plan, and the array that its pointers lead into."""
    params = vtc_tome_params(ctypes.sizeof(vtc_tome_params), n_merge)
    count, size, plan = vtc_plan_count(), c_size_t(), vtc_plan(ctypes.sizeof(vtc_plan))
    vtc.call("tome_count", params, len(x), count, vtc.exec)
    vtc.call("plan_size", count, ctypes.byref(size), vtc.exec)
    memory = aligned_bytes(size.value)
    vtc.call("plan_init", plan, count, c_void_p(memory.ctypes.data), size.value, vtc.exec)
    vtc.scratch_for("tome", params, view(x))
    vtc.call("tome", params, view(x), None, plan, None, vtc.exec)
    return plan, memory


def check(name, holds):
    print(f"  {name}: {'yes' if holds else 'NO'}")
    if not holds:
        sys.exit(1)


def main():
    path = (sys.argv[1] if len(sys.argv) > 1 else
            os.environ.get("VTC_LIBRARY") or ctypes.util.find_library("vtc"))
    if path is None:
        sys.exit("no libvtc: give its path, or set VTC_LIBRARY")
    vtc = Library(path)
    random = np.random.default_rng(1)
    x = random.standard_normal((576, 1024), np.float32)
    ids = np.arange(1000, 1576, dtype=np.int32)
    k = random.standard_normal((8, 576, 64), np.float32).astype(np.float16)  # heads, tokens, d

    plan, memory = plan_tome(vtc, x, 256)
    keep, begin = rows(plan.keep, plan.n_out), rows(plan.begin, plan.n_out + 1)
    source, weight = rows(plan.source, begin[-1]), rows(plan.weight, begin[-1])
    print(f"ToMe: {plan.n_in} tokens -> {plan.n_out}")
    check("the plan lies in the array it was given", np.shares_memory(keep, memory))
    check("every patch is in some output", rows(plan.mass, plan.n_out).sum() == plan.n_in)

    y = np.full((plan.n_out, 1024), np.nan, np.float32)
    vtc.scratch_for("plan_apply", plan, view(x), view(y))
    vtc.call("plan_apply", plan, view(x), view(y), vtc.exec)
    expected = np.add.reduceat(weight[:, None] * x[source], begin[:-1])
    print(f"tokens: {x.shape} -> {y.shape}, written into the array that was passed")
    check("as NumPy sums them", np.allclose(y, expected, rtol=1e-5, atol=1e-5))

    # Whatever must stay in step follows the same plan, in any dtype and along any axis.
    kept_ids, kept_k = np.zeros(plan.n_out, np.int32), np.zeros((8, plan.n_out, 64), np.float16)
    vtc.call("plan_gather", plan, c_int(0), view(ids), None, view(kept_ids), vtc.exec)
    vtc.call("plan_gather", plan, c_int(1), view(k), None, view(kept_k), vtc.exec)
    print(f"ids and K cache: {k.shape} -> {kept_k.shape}")
    check("the rows that the outputs stand for",
          np.array_equal(kept_ids, ids[keep]) and np.array_equal(kept_k, k[:, keep]))

    try:
        vtc.call("plan_apply", plan, view(x[:500]), view(y), vtc.exec)
    except VtcError as error:
        print(f"500 rows where the plan wants 576 raise: {error}")
    else:
        sys.exit("a wrong shape went through")


if __name__ == "__main__":
    main()
