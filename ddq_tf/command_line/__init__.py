"""What all commands share: flags (absl underneath), settings as flags, help, errors."""

from ddq_tf.command_line import flags
from ddq_tf.command_line.command import Call, Command, Group, Outcome, suggestion
from ddq_tf.command_line.flags import Flag
from ddq_tf.command_line.settings import Settings

__all__ = ["Call", "Command", "Flag", "Group", "Outcome", "Settings", "flags", "suggestion"]
