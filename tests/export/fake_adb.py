"""Stands for the adb program in tests: answers as adb and a phone do, and notes what it was asked.

The state is a JSON file beside this script: "devices" (what `adb devices -l` lists), "abi", and
"fail", which maps a word of the call to [output, exit code].
"""

import json
import os
import sys

HERE = os.path.dirname(__file__)
with open(f"{HERE}/state.json", encoding="utf-8") as state:
    STATE = json.load(state)
SIGINT = 2
HEAD = """\
* daemon not running; starting now at tcp:5037
* daemon started successfully
List of devices attached
"""


def answer(output: str, code: int = 0) -> None:
    sys.stdout.write(output)
    sys.stdout.flush()
    sys.exit(code)


def main(words: list[str]) -> None:
    with open(f"{HERE}/calls.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(words) + "\n")
    if words == ["devices", "-l"]:
        answer(HEAD + STATE["devices"] + "\n")
    line = " ".join(words)
    for word, (output, code) in STATE.get("fail", {}).items():
        if word in line:
            answer(output, code)
    if words[:1] != ["-s"]:
        answer("adb: more than one device/emulator\n", 1)
    verb, *rest = words[2:]
    if verb == "push":
        size = os.path.getsize(rest[0])
        answer(f"{rest[0]}: 1 file pushed, 0 skipped. 35.2 MB/s ({size} bytes in 0.028s)\n")
    if "getprop" in line:
        answer(STATE.get("abi", "arm64-v8a") + "\r\nPixel 8 Pro\r\n")
    if "--graph=" in line:
        if STATE.get("hang"):
            os.execvp("/bin/sleep", ["sleep", "60"])
        if STATE.get("interrupt"):
            os.kill(os.getppid(), SIGINT)
            os._exit(130)
        answer(STATE["log"])
    answer("")


main(sys.argv[1:])
