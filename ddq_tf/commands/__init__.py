"""The commands of `ddq`, a file for each: its help, its flags and the call of its job."""

from ddq_tf.command_line import Command
from ddq_tf.commands import (
    benchmark,
    demo,
    deploy,
    doctor,
    evaluate,
    export,
    quantize,
    reconstruct,
    report,
    train,
    verify,
    web,
)

# In the order in which they are used.
_MODULES = (
    *(demo, train, doctor, quantize, reconstruct, export),
    *(verify, evaluate, report, benchmark, deploy, web),
)
COMMANDS: dict[str, Command] = {module.COMMAND.name: module.COMMAND for module in _MODULES}

__all__ = ["COMMANDS"]
