"""Tables and budgets of time as users write them."""

from __future__ import annotations

import dataclasses
import json

import pytest

from ddq_tf import DDQConfig, DDQError
from ddq_tf.latency import LatencyBudget, LatencyRow, LatencyTable, OperatorShape

FC = OperatorShape(operator="FULLY_CONNECTED", positions=(16,), weights=(8, 4))
CONV = OperatorShape(
    operator="CONV_2D", positions=(5, 7), weights=(8, 3, 3, 2), strides=(2, 1), groups=2
)


def table(*rows: tuple[OperatorShape, int, float]) -> LatencyTable:
    return LatencyTable(
        machine="a made-up phone",
        runtime="none",
        num_threads=1,
        created="2026-01-01",
        overhead_us=1.5,
        rows=tuple(
            LatencyRow(shape=shape, bits=bits, median_us=us, low_us=us, high_us=2 * us)
            for shape, bits, us in rows
        ),
    )


TABLE = table((FC, 8, 3.25), (FC, 4, 2.0), (CONV, 8, 10.0))


def test_a_table_goes_to_a_file_and_back(tmp_path):
    path = tmp_path / "table.json"
    path.write_bytes(TABLE.dumps())
    read = LatencyTable.load(path)
    assert read == TABLE
    assert [read.us(FC, bits) for bits in (8, 4, 2)] == [3.25, 2.0, None]
    assert read.us(dataclasses.replace(CONV, strides=(1, 1)), 8) is None
    assert read.spread == 1.0
    # What a configuration holds needs no file any more.
    config = DDQConfig(latency_table=str(path), latency_budget="0.95x")
    path.unlink()
    restored = DDQConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert restored == config
    assert restored.latency_table == TABLE
    assert "rows" not in repr(restored)
    other = dataclasses.replace(config, latency_table=dataclasses.replace(TABLE, rows=()))
    told = [c.fingerprint()["latency_table"] for c in (config, restored, other, DDQConfig())]
    assert told[0] == told[1] != told[2]
    assert told[3] is None


def changed(**fields) -> bytes:
    return json.dumps({**TABLE.to_dict(), **fields}).encode()


ROW = TABLE.to_dict()["rows"][0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot read the latency table.*ddq benchmark MODEL --table"),
        (b"{", "cannot read the latency table"),
        (b"[]", "must hold a JSON object"),
        (changed(version=2), r"version 1. Received: \('ddq_tf latency table', 2\)"),
        (changed(rows=[ROW, ROW]), r"Received several for:\n  - FULLY_CONNECTED 16 x 4 to 8, 8 b"),
        (changed(rows=[{**ROW, "bits": 3}]), "bits of 2, 4, 8"),
        (changed(rows=[{**ROW, "median_us": -1}]), "times of 0 us or more"),
        (changed(rows=[{**ROW, "median_us": "fast"}]), "median_us must be a number"),
        (changed(rows=[{**ROW, "positions": [1, 1]}]), "FULLY_CONNECTED with 1 and 2"),
        (changed(rows=[{**ROW, "operator": "ADD"}]), "one of FULLY_CONNECTED, CONV_2D"),
        (changed(rows=[{k: v for k, v in ROW.items() if k != "weights"}]), "'weights'"),
        (changed(more=1), "lacks a field, or has one too many: .*'more'"),
    ],
)
def test_a_file_that_is_no_table_is_told(tmp_path, content, words):
    path = tmp_path / "table.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DDQError, match=f"(?s){words}"):
        DDQConfig(latency_table=path)


@pytest.mark.parametrize(
    ("written", "us"),
    [
        (0.95, 190),
        (1, 200),
        ("0.95", 190),
        ("0.95x", 190),
        ("95%", 190),
        ("850us", 850),
        ("850 µs", 850),
        ("1.2ms", 1200),
        ("0.5s", 500_000),
        (LatencyBudget(microseconds=3), 3),
    ],
)
def test_a_budget_of_time_as_users_write_it(written, us):
    config = DDQConfig(latency_budget=written, latency_table=TABLE)
    assert config.latency_budget.us_of(200.0) == pytest.approx(us)


@pytest.mark.parametrize("written", [0, -1, "0x", "850", 850, "fast", "1.2.3ms", "nan", True, "x"])
def test_a_budget_of_time_refuses(written):
    with pytest.raises(DDQError, match=r"latency_budget|ratio|microseconds"):
        DDQConfig(latency_budget=written, latency_table=TABLE)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"latency_budget": 1}, "needs latency_table.*ddq deploy MODEL --table"),
        ({"latency_table": TABLE, "target": "tflm"}, "'tflm' does not run"),
        (
            {"latency_table": TABLE, "latency_budget": 1, "code_bits": 4},
            "exclude each other.*code_bits=4",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(given, words):
    with pytest.raises(DDQError, match=words):
        DDQConfig(**given)


@pytest.mark.parametrize("given", [{}, {"ratio": 1, "microseconds": 1}])
def test_a_budget_of_time_has_exactly_one_measure(given):
    with pytest.raises(DDQError, match="exactly one of ratio, microseconds"):
        LatencyBudget(**given)
