import json
import re
from pathlib import Path

import ablations_page
import benchmarks_page
import pytest
from provenance import RESULTS


def record(**changes):
    """A row of TFMOT's, or what it is changed to."""
    return {
        "network": "mobilenet_v2",
        "row": "tfmot_qat",
        "title": "TFMOT",
        "group": "peer",
        "weight_bits": 8,
        "activation_bits": 8,
        "epochs": 6,
        "seed": 0,
        "float_sha256": "aa",
        "litert_accuracy": 0.8,
        **changes,
    }


def test_the_pages_say_what_the_results_say():
    assert benchmarks_page.PAGE.read_text() == benchmarks_page.page(benchmarks_page.tables())
    assert ablations_page.PAGE.read_text() == ablations_page.page(ablations_page.records())


@pytest.mark.parametrize("page", [benchmarks_page.PAGE, ablations_page.PAGE], ids=lambda p: p.name)
def test_every_figure_of_a_page_is_there(page: Path):
    figures = re.findall(r"\]\((\w+\.png)\)", page.read_text())
    assert figures
    assert not [name for name in figures if not page.with_name(name).is_file()]


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_a_result_says_how_it_was_made(path: Path):
    content = json.loads(path.read_text())
    assert {"command", "seed", "versions", "machine", "git_commit", "results"} <= set(content)
    assert not re.search(r'"[^"]*(?:/home/|/root/|/tmp/|/work/)', path.read_text())


def test_rows_that_differ_in_their_seed_are_one_line():
    scores = [0.80, 0.83, 0.82]
    found = [record(seed=seed, litert_accuracy=score) for seed, score in enumerate(scores)]
    (line,) = benchmarks_page.merged(found)
    assert line["seeds"] == [0, 1, 2]
    assert benchmarks_page.score(line) == pytest.approx(sum(scores) / 3)
    assert len(benchmarks_page.merged([*found, record(epochs=20)])) == 2


def test_rows_of_other_float_weights_are_left_out_and_those_of_peers_refused():
    ours = [record(group="ours", title="DDQ", float_sha256=sha) for sha in ("aa", "bb")]
    assert benchmarks_page.of_same_float([record(), *ours]) == [record(), ours[0]]
    with pytest.raises(SystemExit, match=r"different float files: \{'aa'.*'bb'"):
        benchmarks_page.of_same_float([record(), record(float_sha256="bb")])


def test_the_front_holds_what_no_other_point_beats():
    points = [(3.0, 0.9), (1.0, 0.5), (2.0, 0.4), (2.0, 0.8), (4.0, 0.9)]
    assert benchmarks_page.front(points) == [(1.0, 0.5), (2.0, 0.8), (3.0, 0.9)]
