"""`ddq reconstruct`: quantization from unlabeled images."""

from __future__ import annotations

from ddq_tf.command_line import Call, Command, Group, Outcome, Settings
from ddq_tf.command_line.shared import (
    OUT_MODEL,
    OUTPUT,
    RESUME,
    RULES_IN_PYTHON,
    data_group,
    work_folder,
)
from ddq_tf.command_line.words import percent
from ddq_tf.config import DDQConfig
from ddq_tf.pictures import DataOptions, range_words
from ddq_tf.recipes import ReconstructionConfig


def _run(call: Call) -> Outcome:
    from ddq_tf import jobs
    from ddq_tf.reconstruction import blocks_kept, forget_reconstruction

    folder = work_folder(call, blocks_kept, "blocks")
    done = jobs.reconstruct_float(
        call.files[0],
        call.settings(DataOptions),
        call.settings(DDQConfig),
        call.settings(ReconstructionConfig),
        out=call.flags["out"],
        checkpoint_dir=folder,
        screen=call.screen,
    )
    forget_reconstruction(folder)
    found = done.fidelity
    divergence = "" if found.kl_divergence is None else f", KL {found.kl_divergence:.3f} nats"
    call.screen.table(
        [
            (
                "like the float model",
                f"{percent(found.top1_agreement)} of {found.num_samples:,} held-out images have "
                f"its answer{divergence}",
            ),
            ("weights", f"{done.weights_size_bytes:,} bytes, {done.average_bits:.2f} bits each"),
            ("input range", range_words(done.images.input_range)),
            ("saved", str(done.path)),
        ],
    )
    return Outcome(results=done.results)


COMMAND = Command(
    name="reconstruct",
    summary="Quantize within minutes from unlabeled images, block by block.",
    files=("FLOAT.keras",),
    notes=(
        "A few hundred images like those that the model will see are enough. It learns from nine "
        "tenths or so (the training split) to do what the float model does, and says how well it "
        "does on the others. Takes any .keras or .h5 model with one input image and one output."
    ),
    groups=(
        data_group(batch_size=ReconstructionConfig().batch_size),
        Group(
            title="Quantization",
            of=(
                OUT_MODEL,
                Settings(
                    kind=DDQConfig,
                    # Full grids: what reconstruction gains by them, training does not.
                    base=DDQConfig(narrow_range=False),
                    left_out={
                        "rules": RULES_IN_PYTHON,
                        "search_fraction": "precisions are learned before, not during a training",
                        "freeze_quantizers_of_frozen": "every layer is reconstructed",
                    },
                ),
            ),
        ),
        Group(title="Reconstruction", of=(Settings(kind=ReconstructionConfig), *RESUME)),
        OUTPUT,
    ),
    example="ddq reconstruct float.keras --data=images:photos --out=ddq.keras",
    job="ddq_tf.jobs.reconstruct_float",
    run=_run,
)
