"""`ddq web`: a page that runs a file in the browser."""

from __future__ import annotations

from ddq_tf.command_line import Call, Command, Group, Outcome, Settings, flags
from ddq_tf.command_line.shared import OUTPUT
from ddq_tf.command_line.words import picture_words
from ddq_tf.pictures import DataOptions, range_words

_NO_DATA = "the page gets its pictures from its user, one by one"


def _run(call: Call) -> Outcome:
    from ddq_tf import jobs

    values = call.flags
    page = jobs.make_web_page(
        call.files[0],
        values["out"],
        call.settings(DataOptions),
        labels=values["labels"],
        runtime=values["runtime"],
    )
    image, labels = page.told["input"], len(page.told["labels"])
    call.screen.table(
        [
            ("saved", f"{page.folder}, {page.size_bytes:,} bytes"),
            (
                "pictures",
                picture_words(image["crop"], image["resize"], image["channels"], page.sources),
            ),
            ("input range", f"{range_words(page.input_range)}, {page.sources['input_range']}"),
            ("labels", f"{labels}" if labels else "none: classes are shown by number"),
        ],
    )
    call.screen.say(
        f"Any web server serves it; here: python3 -m http.server --directory {page.folder}, then "
        "open http://localhost:8000"
    )
    return Outcome(results=page.results)


COMMAND = Command(
    name="web",
    summary="Make a folder with a page that runs a .tflite file in the browser.",
    files=("FILE.tflite",),
    notes=(
        "Downloads LiteRT.js (12 MB) from the npm registry, unless --runtime is given, and checks "
        "it. The folder then needs no network: any web server serves it. Pictures are cut, resized "
        "and normalized as in training, which the file's metadata tell where no flag does, and "
        "stay in the browser."
    ),
    groups=(
        Group(
            title="Flags",
            of=(
                flags.text("out", "FOLDER", "to make, or an earlier one to replace", required=True),
                flags.text(
                    "labels", "FILE", "the classes, one a line; by default those in the file"
                ),
                flags.text(
                    "runtime",
                    "FOLDER",
                    "with LiteRT.js: npm's .tgz, a node_modules, or an earlier FOLDER of this "
                    "command",
                ),
            ),
        ),
        Group(
            title="Pictures",
            of=(
                Settings(
                    kind=DataOptions,
                    base=DataOptions(spec=""),
                    left_out=dict.fromkeys(("spec", "batch_size", "limit"), _NO_DATA),
                ),
            ),
        ),
        OUTPUT,
    ),
    example="ddq web ddq.tflite --out=site",
    job="ddq_tf.jobs.make_web_page",
    run=_run,
)
