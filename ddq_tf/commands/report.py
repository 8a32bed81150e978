"""`ddq report`: everything known of a DDQ model."""

from __future__ import annotations

from ddq_tf.command_line import Call, Command, Group, Outcome, flags
from ddq_tf.command_line.shared import OUTPUT, SPLIT, data_settings, target_flag
from ddq_tf.pictures import DataOptions


def _run(call: Call) -> Outcome:
    from ddq_tf import jobs
    from ddq_tf.report import text

    values, path = call.flags, call.files[0]
    jobs.check_report_path(values["out"])
    if values["png_dir"]:
        jobs.check_figures_folder(values["png_dir"])
    subject = jobs.subject_of_files(
        path,
        tflite=values["tflite"],
        float_model=values["float"],
        options=call.settings(DataOptions) if values["data"] else None,
        split=values["split"],
        target=values["target"],
        compare=values["compare"],
    )
    report = jobs.make_report(subject, command=call.command, screen=call.screen)
    page, numbers = jobs.save_report(report, values["out"])
    text.render(report, call.console)
    call.screen.table([("saved", f"{page}, {numbers.name}")])
    if values["png_dir"]:
        files = jobs.save_figures(report, values["png_dir"])
        call.screen.table([("figures", ", ".join(map(str, files)))])
    return Outcome(results=report.to_dict())


COMMAND = Command(
    name="report",
    summary="Put everything known of a DDQ model on one HTML page.",
    files=("DDQ.keras",),
    notes=(
        "With --data, accuracies are measured and the file is verified; with --float too, the "
        "stock int8 converter's file is made and measured as the baseline. Writes JSON beside the "
        "page."
    ),
    groups=(
        Group(
            title="Flags",
            of=(
                flags.text("out", "FILE.html", "the page to write", "report.html"),
                flags.text("tflite", "FILE", "its exported file; by default it is exported anew"),
                flags.text("float", "FILE", "the float model that it came from"),
                flags.text(
                    "png_dir", "FOLDER", "also draw levels.png, bits.png and error.png there"
                ),
                flags.text(
                    "compare",
                    "LABEL=FILE.keras,...",
                    "up to three other trainings, whose quantization errors to show too",
                ),
            ),
        ),
        Group(
            title="Data",
            of=(data_settings(batch_size=64, optional={"spec": ""}), SPLIT, target_flag(None)),
        ),
        OUTPUT,
    ),
    example="ddq report ddq.keras --float=float.keras --data=digits --out=report.html",
    job="ddq_tf.jobs.subject_of_files",
    run=_run,
)
