"""Codes in and out of a page made by `ddq web`, in a browser."""

from __future__ import annotations

import numpy as np
from chromium import Page

from ddq_tf.export import Runner

_RUN = """(async () => {
  const type = ddq.told.input.type;
  const array = { int8: Int8Array, uint8: Uint8Array, float32: Float32Array }[type];
  const all = new array(sent.buffer);
  const length = all.length / COUNT;
  const results = [];
  for (let start = 0; start < all.length; start += length) {
    results.push(await ddq.run(all.slice(start, start + length)));
  }
  const whole = new results[0].constructor(results.reduce((sum, r) => sum + r.length, 0));
  results.reduce((start, r) => (whole.set(r, start), start + r.length), 0);
  return whole;
})()"""
_TIMES = """(async () => {
  const input = new sentAs(sent.buffer);
  const times = [];
  for (let i = 0; i < RUNS; i++) {
    const start = performance.now();
    await ddq.run(input);
    times.push(performance.now() - start);
  }
  return times;
})()"""
_PICTURES_AT_ONCE = 20


def open_model(page: Page, url: str, *, compat: bool = False) -> None:
    """Visits a page made by `ddq web` and waits until its model is there.

    Args:
        page: the tab.
        url: of the folder.
        compat: whether to run without relaxed SIMD.

    Raises:
        BrowserError: with the page's words if the model cannot run.
    """
    page.visit(url + ("?compat" if compat else ""))
    page.evaluate("ddq.ready")


def outputs_of(page: Page, runner: Runner, codes: np.ndarray) -> np.ndarray:
    """Returns the model's output codes for each example.

    Args:
        page: with the model open.
        runner: of the same file, for shapes and types.
        codes: of the input, shape (examples, ...).
    """
    info, parts = runner.output, []
    for start in range(0, len(codes), _PICTURES_AT_ONCE):
        part = np.ascontiguousarray(codes[start : start + _PICTURES_AT_ONCE])
        page.put("sent", part.tobytes())
        data = page.get(_RUN.replace("COUNT", str(len(part))))
        parts.append(np.frombuffer(data, info.dtype).reshape(len(part), *info.shape[1:]))
    return np.concatenate(parts)


def inputs_of(page: Page, runner: Runner, picture: bytes) -> np.ndarray:
    """Returns the codes that the page makes of a picture's file.

    Args:
        page: with the model open.
        runner: of the same file.
        picture: the content of a JPEG or PNG file.
    """
    page.put("sent", picture)
    data = page.get("ddq.codes(new Blob([sent]))")
    return np.frombuffer(data, runner.input.dtype).reshape(runner.input.shape[1:])


def times_of(page: Page, example: np.ndarray, runs: int) -> list[float]:
    """Returns the milliseconds of single inferences.

    Args:
        page: with the model open.
        example: codes of one input.
        runs: how many.
    """
    page.put("sent", np.ascontiguousarray(example).tobytes())
    array = {"int8": "Int8Array", "uint8": "Uint8Array", "float32": "Float32Array"}
    script = _TIMES.replace("sentAs", array[example.dtype.name]).replace("RUNS", str(runs))
    return page.evaluate(script)
